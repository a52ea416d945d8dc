"""Neural Tangent Transfer: Liu & Zenke 2020, arXiv 2006.08228, in the order in which to read it.

The paper:

1. `objective.py`: what is minimised, `L = λ_K · D_K + D_f + (λ_2 / d) · ‖m ⊙ w‖²`. The kernel: `kernels/product.py`.
2. `step.py`: the gradient of `L` at the masked weights, and one step of Adam.
3. `transfer.py`: the problem: which teacher, on which inputs, which weights may be pruned.
4. `loop.py`: the transfer from its first step to its last, with a mask update every so many steps.

How masks are chosen. The paper keeps the largest magnitudes in each layer (`--preset paper`); the rest is ours:

5. `mask_update.py`: how many weights each layer keeps, and which.
6. `saliency.py`: the score of a weight: its magnitude times its effect on the outputs.
7. `affinity.py`: a factor of the score, by which units prefer inputs that vary together.

What a run needs besides:

8. `settings.py`: every option of a transfer, with its default.
9. `plan.py`: the steps at which masks change, and the density at each.
10. `batches.py`: the samples and the probe of each step, and the teacher's outputs for them.
11. `validation.py`: the distance on samples held out, which ends a transfer with `--steps auto`.
12. `progress.py`: the student and its history between two steps, saved and restored.
13. `compiled.py`: the passes of a step as one compiled function.
"""
