"""xamc, the cross-accelerator model compiler: from a build.yaml to an artifact that runs, every rewrite proven."""

__version__ = "0.1.0"
