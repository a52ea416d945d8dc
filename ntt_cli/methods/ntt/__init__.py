"""Neural Tangent Transfer: Liu & Zenke 2020, arXiv 2006.08228, in the order in which to read it.

The paper's symbols. The teacher is the dense network, the student the sparse one; subscripts t and s tell them apart.

- `θ`: all parameters; `w`: the prunable ones; `m`: the mask, 1 where a weight is kept; `d`: the density, its mean.
- `x1`, `x2`: the halves of a batch. In shapes, `n` and `m` are their numbers of samples, and `c` is that of outputs.
- `f(x)`: the outputs, `[n, c]`; `J(x)`: their Jacobian with respect to `θ`; `K = J(x1) J(x2)ᵀ`: the kernel.
- `v`: a Gaussian probe, `[m, c]`, which is ours: steps compare `K_s v` with `K_t v`, and never form `K`.

The paper:

1. `objective.py`: what is minimised, `L`, and what we add to the paper's. The kernel: `kernels/product.py`.
2. `step.py`: the gradient of `L` at the masked weights, and one step of Adam.
3. `transfer.py`: what a transfer is given: the teacher, the inputs, the prunable weights, the settings.
4. `loop.py`: the transfer from its first step to its last, with a mask update every so many steps.

How masks are chosen. The paper keeps the same share of each layer, the largest magnitudes; the rest is ours:

5. `score.py`: how many weights each layer keeps, and which; what a score is, the paper's and ours.
6. `saliency.py`: our score of a weight: its magnitude times a power of its effect on the outputs.
7. `affinity.py`: a factor of that score, by which units prefer inputs that vary together.

What a run needs besides:

8. `method.py`: NTT as one of the methods of `ntt prune`, and its exchangeable parts.
9. `settings.py`: every option of a transfer, with its default.
10. `plan.py`: the steps at which masks change, and the density at each.
11. `batches.py`: the samples and the probe of each step, and the teacher's outputs for them.
12. `validation.py`: the distance on samples held out, which ends a transfer with `--steps auto`.
13. `progress.py`: the student and its history between two steps, saved and restored.
14. `compiled.py`: the passes of a step as one compiled function.

`--preset paper` chooses the paper's objective, score, allocation and schedule, with the authors' constants.
"""
