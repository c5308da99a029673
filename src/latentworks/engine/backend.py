"""Keras on TensorFlow, started without what is not used here.

- Keras would load scikit-learn and pyplot for wrappers of its own: a third of its time to start.
- TensorFlow greets, which no setting of theirs turns off.

TensorFlow uses oneDNN by itself on processors with AVX-512 alone; models train faster with it on
others, too.
"""

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# What is None here cannot be imported, and Keras goes on without it.
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

import keras  # noqa: E402  it would import TensorFlow itself, aloud

__all__ = ["configure", "keras", "tf"]


def configure(seed: int, num_threads: int) -> None:
    """Make what follows repeatable. To be called once, before the first tensor is made."""
    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
