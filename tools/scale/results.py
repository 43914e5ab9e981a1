"""Measured values beside their targets."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Results:
    """Measured values: (step, quantity, value, unit, target or None), in order."""

    rows: list[tuple[str, str, float, str, float | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, step: str, quantity: str, value: float, unit: str, target: float | None = None) -> None:
        """Keeps a value and prints it."""
        self.rows.append((step, quantity, value, unit, target))
        verdict = "" if target is None else f"   target ≤ {target:.4g}: {'met' if value <= target else 'MISSED'}"
        print(f"  {step:<18} {quantity:<34} {value:>10.4g} {unit}{verdict}", flush=True)

    def missed(self) -> list[str]:
        """The quantities beyond their targets."""
        return [
            f"{step}: {name}" for step, name, value, _, target in self.rows if target is not None and value > target
        ]
