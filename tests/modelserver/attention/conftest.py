"""Triton's kernels run in its interpreter where there is no GPU."""

from triton_interpreter import interpreter_rounds_as_gpus_do, interpreter_takes_scalars_of_one_element

__all__ = ["interpreter_rounds_as_gpus_do", "interpreter_takes_scalars_of_one_element"]
