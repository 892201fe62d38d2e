"""A network of somebody else's in an ONNX file, run: looked at before, limited in time, on the processor or a GPU."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.device import Device
from cxrsearch.errors import InputError, ModelError
from cxrsearch.onnx_graph import check_graph

_CUDA = "CUDAExecutionProvider"
# Both packages of ONNX Runtime are one folder once installed: the one that was installed last is there.
_INSTALL = (
    "pip install 'cxrsearch[gpu]', then pip uninstall onnxruntime, then"
    " pip install --force-reinstall --no-deps onnxruntime-gpu"
)


class Session:
    """A loaded file. inputs: what it takes (``name``, ``shape``, ``type`` each). outputs: what it gives, by name."""

    def __init__(self, content: bytes, label: str, threads: int | None = None, device: Device = Device.CPU) -> None:
        """content: the file. label: what messages call it. threads: cores used at once; all by default.

        Raises ModelError for a file that cannot be run, InputError where the device cannot be used.
        """
        import onnxruntime

        self._label = label
        try:
            check_graph(content)
        except ValueError as error:
            raise ModelError(f"{label}: cannot be run: {error}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.log_severity_level = 4  # what is wrong is raised
        options.enable_cpu_mem_arena = False  # its reserve costs more memory than it saves time here
        providers = _providers(device)
        try:
            with warnings.catch_warnings(action="ignore"):
                # From bytes, so that the file cannot refer to data outside itself.
                self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # onnxruntime's own errors share no public class
            raise ModelError(f"{label}: cannot be run ({_reason(error)})") from None
        if device is Device.CUDA and _CUDA not in self._session.get_providers():
            raise InputError(
                "--device cuda: ONNX Runtime has CUDA, but it does not start here: is there a GPU, its driver, CUDA and"
                f" cuDNN? Try nvidia-smi, then {_INSTALL}; or leave --device out"
            )
        self.inputs: Sequence[Any] = self._session.get_inputs()
        self.outputs: Mapping[str, Any] = {output.name: output for output in self._session.get_outputs()}

    def run(
        self, wanted: Sequence[str], feeds: Sequence[Mapping[str, NDArray[Any]]], seconds: float
    ) -> list[NDArray[np.float32]]:
        """The wanted outputs for each of the feeds, one after another, concatenated along the first axis.

        Raises ModelError when all of it takes longer than ``seconds``, and for what the file cannot compute.
        """
        import onnxruntime

        limit = onnxruntime.RunOptions()
        limit.log_severity_level = 4
        timer = threading.Timer(seconds, setattr, (limit, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            runs = [self._session.run(list(wanted), dict(feed), limit) for feed in feeds]
        except Exception as error:
            if limit.terminate:
                why = f"takes more than {seconds:g} s; use another, or a faster machine"
                raise ModelError(f"{self._label}: {why}") from None
            raise ModelError(f"{self._label}: cannot take what its card says ({_reason(error)})") from None
        finally:
            timer.cancel()
        return [np.concatenate(arrays).astype(np.float32, copy=False) for arrays in zip(*runs, strict=True)]


def fits(inputs: Sequence[Any], sides: Sequence[int]) -> bool:
    """Whether a session takes one array, whose axes behind the batch may be of these sides."""
    if len(inputs) != 1 or len(inputs[0].shape) != 1 + len(sides):
        return False
    return all(not isinstance(side, int) or side == own for side, own in zip(inputs[0].shape[1:], sides, strict=True))


def _providers(device: Device) -> list[Any]:
    """Raises InputError where ONNX Runtime has no such."""
    import onnxruntime

    if device is Device.CPU:
        return ["CPUExecutionProvider"]
    if _CUDA not in onnxruntime.get_available_providers():
        raise InputError(
            f"--device cuda: this ONNX Runtime ({onnxruntime.__version__}) has no CUDA: {_INSTALL}; or leave --device"
            " out"
        )
    onnxruntime.set_default_logger_severity(4)
    with contextlib.redirect_stdout(io.StringIO()):  # what does not load is said by the session
        onnxruntime.preload_dlls()
    # TF32 rounds to ten bits: vectors of one index would not be those of another machine.
    return [(_CUDA, {"use_tf32": "0"}), "CPUExecutionProvider"]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "bad_alloc" in text or "allocate memory" in text:
        return "asks for more memory than there is"
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
