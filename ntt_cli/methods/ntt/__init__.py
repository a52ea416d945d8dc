"""Neural Tangent Transfer: Liu & Zenke 2020, arXiv 2006.08228, in the order in which to read it.

The paper:

1. `objective.py`: what is minimised, `L = λ_K · D_K + D_f + (λ_2 / d) · ‖m ⊙ w‖²`. The kernel: `kernels/product.py`.
2. `step.py`: the gradient of `L` at the masked weights, and one step of Adam.
3. `transfer.py`: the problem: which teacher, on which inputs, which weights may be pruned.
4. `loop.py`: the transfer from its first step to its last, with a mask update every so many steps.

How masks are chosen. The paper keeps the largest magnitudes in each layer (`--preset paper`); the rest is ours:

5. `mask_update.py`: how many weights each layer keeps, and which.
6. `score.py`: what a score is, the paper's and ours.
7. `saliency.py`: our score of a weight: its magnitude times its effect on the outputs.
8. `affinity.py`: a factor of that score, by which units prefer inputs that vary together.

What a run needs besides:

9. `method.py`: NTT as one of the methods of `ntt prune`, and its exchangeable parts.
10. `settings.py`: every option of a transfer, with its default.
11. `plan.py`: the steps at which masks change, and the density at each.
12. `batches.py`: the samples and the probe of each step, and the teacher's outputs for them.
13. `validation.py`: the distance on samples held out, which ends a transfer with `--steps auto`.
14. `progress.py`: the student and its history between two steps, saved and restored.
15. `compiled.py`: the passes of a step as one compiled function.
"""
