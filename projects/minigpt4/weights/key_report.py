# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Report which tensors of a file matched, are missing or are not used."""

from dataclasses import dataclass, field
from fnmatch import fnmatch


@dataclass
class KeyReport:
    """How the tensor names of a file match those of a model.

    Attributes:
        layout: The layout of the file.
        matched: Our names that the file has.
        left_over: Names in the file that are not used: reason.
        missing: Our names that the file lacks.
        misshaped: Our names with another shape or type: found and expected.
        allowed: Patterns of our names that may be missing or misshaped.
        notes: Further sentences for the user.
    """

    layout: str
    matched: list[str] = field(default_factory=list)
    left_over: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misshaped: dict[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def check(
        self,
        source: object,
        target: str,
        advice: str = 'is it the checkpoint of this architecture?',
    ) -> None:
        """Refuse a file that does not fit the model.

        Args:
            source: The file, for the error.
            target: What its tensors are loaded into, for the error.
            advice: What to do, for the error.

        Raises:
            ValueError: A tensor is missing or misshaped and not allowed.
        """
        total = len(self.matched) + len(self.missing) + len(self.misshaped)
        for problem, names in (
            ('lacks', self.missing),
            ('has misshaped', [*self.misshaped]),
        ):
            refused = [
                name
                for name in names
                if not any(fnmatch(name, p) for p in self.allowed)
            ]
            if refused:
                first = refused[0]
                shapes = self.misshaped.get(first, '')
                raise ValueError(
                    f'{source} {problem} {len(refused)} of the {total} '
                    f'tensors of {target}, e.g. {first}'
                    f'{" (" + shapes + ")" if shapes else ""}; {advice}'
                )

    def __str__(self) -> str:
        lines = [f'layout {self.layout}: {len(self.matched)} tensors matched']
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left_over.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            lines.append(f'  left over: {_shorten(names)}: {reason}')
        if self.missing:
            lines.append(f'  missing: {_shorten(self.missing)}')
        for name, shapes in list(self.misshaped.items())[:5]:
            lines.append(f'  misshaped: {name}: {shapes}')
        lines += [f'  {note}' for note in self.notes]
        return '\n'.join(lines)


def _shorten(names: list[str]) -> str:
    """Format the number of names and the first three."""
    first = ', '.join(names[:3]) + (' ...' if len(names) > 3 else '')
    return f'{len(names)} ({first})'
