"""Import of Keras on TensorFlow, faster and without TensorFlow's start-up messages.

- Keras would import scikit-learn and pyplot for its wrappers: a third of its import time.
- No setting turns off TensorFlow's start-up messages, so standard error is redirected meanwhile.
- TensorFlow enables oneDNN only on processors with AVX-512, but training is faster with oneDNN on
  other processors, too.
"""

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# A module that is None in sys.modules cannot be imported. Keras then does without it.
_left_out = {"sklearn", "matplotlib.pyplot"} - set(sys.modules)
sys.modules |= dict.fromkeys(_left_out)  # type: ignore[arg-type]
_stderr = os.dup(2)
with tempfile.TemporaryFile() as _greeting:
    os.dup2(_greeting.fileno(), 2)
    try:
        import tensorflow as tf
    finally:
        os.dup2(_stderr, 2)
        os.close(_stderr)
        for _name in _left_out:
            del sys.modules[_name]

import keras  # noqa: E402  after TensorFlow, which Keras would import with its messages

__all__ = ["configure", "keras", "tf"]


def configure(seed: int, num_threads: int) -> None:
    """Make training deterministic. Call this once, before the first tensor is created."""
    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
