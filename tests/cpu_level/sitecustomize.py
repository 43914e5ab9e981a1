"""Python imports this at its start where PYTHONPATH has this folder: processes of tests at another CPU level."""

import os

import emulated_level

if emulated_level.FLAGS in os.environ:
    emulated_level.install()
