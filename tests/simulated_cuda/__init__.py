"""
A simulated CUDA device: tensors that say "cuda:0", compute on the CPU and refuse what a GPU would refuse.

    python -m tests.simulated_cuda SCRIPT ARGUMENTS ...        # Python with the device; so also -m pytest ...
    SIMCUDA_DEVICES=2 python -m tests.simulated_cuda ...       # two devices
    python -m tests.simulated_cuda.waits                       # the waits of a step beside Detectron2's

:func:`tests.simulated_cuda.running.run_simulated` does the same for tests. It needs g++ and the torch that
constraints.txt pins: it relies on torch's internals.

**How it works.** A simulated tensor is a subclass of ``torch.Tensor`` that shares its memory with a CPU tensor. It has
CUDA's dispatch keys, and its device is "cuda:0" in C++ too, so that autograd and autocast treat it as on a GPU. Every
operator on it is checked against the rules of a GPU, and then run on the CPU tensors. A dispatch mode does the same for
operators without a simulated tensor among their arguments, such as factories and copies. ``guard.cpp`` replaces the
parts of torch in C++ that would ask the driver. Backward passes run in autograd's device thread, as on a GPU.

**What it finds.**

* Operators on tensors of two devices. As in torch, a CPU tensor without dimensions may take part in a pointwise
  operator, and CPU tensors may index.
* Generators of the wrong device, ``.numpy()`` of a GPU's tensor, device numbers that don't exist, CUDA in a forked
  process, and CPU tensors in the collectives of an NCCL group, which gloo carries out.
* Each wait of the host for the device, with its kind, the operator, and the line of balanced_lvis or Detectron2 that
  causes it: ``STATE.waits``. ``torch.cuda.set_sync_debug_mode`` works too.

**What it can't find.** Limits of the kernels (data types, shapes, rounding, results that vary from run to run), races
between streams, memory, speed, and errors of the real NCCL.
"""
