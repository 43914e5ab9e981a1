"""The artifact folder: its manifest, how it is written and published, and how it is read and checked.

The runtime reads artifacts through this package, so nothing here imports more than the standard library and
`xamc.compiler.contract` and `xamc.compiler.errors`.
"""
