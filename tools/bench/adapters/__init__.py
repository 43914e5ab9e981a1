"""One module per engine, imported in its environment only: a class ``Adapter`` that `worker.Engine` describes."""
