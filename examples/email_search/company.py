"""Rowan & Pike, a joinery that nobody runs: its people, its customers, and what they write to each other about.

Everybody and everything outside the house belongs to one of two halves. Questions to practise on are about the one,
held-out questions about the other, so that no person and no thing of an examination was ever asked about before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Half = Literal["practice", "held-out"]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a mail address."""

    name: str
    address: str

    @property
    def first(self) -> str:
        """The first name, as one signs."""
        return self.name.split()[0]


STAFF = tuple(
    Person(name, f"{name.split()[0].lower()}@rowanpike.example")
    for name in ("Nora Pike", "Tomas Rowan", "Ines Calder", "Felix Marsh", "Aisha Bell", "Jonas Thorn", "Greta Lund")
)
PLACES = (
    "the showroom", "the workshop", "the Mill Café", "the town library", "the station hall", "the old dairy",
    "the harbour office", "the school gate",
)  # fmt: skip
_FIRST = (
    "Marta", "Oskar", "Leila", "Hugo", "Anna", "Piet", "Sofia", "Emil", "Clara", "Yusuf", "Ruth", "Milan", "Elsa",
    "Bruno", "Dana", "Karl", "Nadia", "Olaf", "Priya", "Stefan",
)  # fmt: skip
_LAST = {
    "practice": (
        "Abbot", "Adler", "Barlow", "Becker", "Birch", "Castell", "Crane", "Dahl", "Dorsey", "Eklund", "Ellery", "Falk",
        "Farrow", "Garner", "Gould", "Hale", "Hanley", "Ibsen", "Jarvis", "Kemp", "Kovac", "Lang", "Lindow", "Mercer",
        "Moreau", "Nash", "Nyberg", "Orton", "Osman", "Pavlik", "Quill", "Ramsey", "Rossi", "Sand", "Sorel", "Tate",
        "Tolman", "Ullman", "Varga", "Voss", "Webber", "Winter", "Yates", "Zeller",
    ),
    "held-out": (
        "Ashby", "Brandt", "Cole", "Drake", "Engel", "Frost", "Grant", "Holm", "Jensen", "Keller", "Lowell", "Mason",
        "Novak", "Palmer", "Reuter", "Stone", "Turner", "Wolff",
    ),
}  # fmt: skip
GOODS: dict[Half, tuple[str, ...]] = {
    "practice": (
        "bookcase", "wardrobe", "dining table", "garden bench", "bar stool", "coat rack", "wine shelf", "corner desk",
        "bunk bed", "shoe cabinet", "window seat", "folding chair",
    ),
    "held-out": ("sideboard", "writing desk", "rocking chair", "spice rack", "plant stand"),
}  # fmt: skip
PROJECTS: dict[Half, tuple[str, ...]] = {
    "practice": ("kitchen", "staircase", "attic", "shop counter", "loft floor", "porch", "sauna", "music room"),
    "held-out": ("boathouse", "panelling", "reading corner"),
}
MATERIALS: dict[Half, tuple[tuple[str, str], ...]] = {
    "practice": (
        ("birch plywood", "sheet"), ("oak boards", "metre"), ("wood glue", "bucket"), ("brass hinges", "box"),
        ("walnut veneer", "roll"), ("linseed oil", "can"), ("beech dowels", "bag"), ("sanding belts", "pack"),
    ),
    "held-out": (("cherry boards", "metre"), ("drawer runners", "pair"), ("hard wax", "tin")),
}  # fmt: skip
MACHINES: dict[Half, tuple[str, ...]] = {
    "practice": ("band saw", "delivery van", "spray booth", "dust extractor", "edge sander", "forklift"),
    "held-out": ("planer", "lathe", "compressor"),
}
_FIRMS: dict[Half, tuple[str, ...]] = {
    "practice": ("Northwood", "Halden", "Brightwater", "Stonegate", "Larkfield", "Oakley", "Fenwick", "Redmill"),
    "held-out": ("Westbrook", "Tarnside", "Coldwell"),
}


def customers(half: Half) -> Sequence[Person]:
    """Return the customers of one half; a last name occurs once."""
    dice = random.Random(f"customers/{half}")
    names = [f"{dice.choice(_FIRST)} {last}" for last in _LAST[half]]
    return [Person(name, f"{name.lower().replace(' ', '.')}@post.example") for name in names]


def suppliers(half: Half) -> Sequence[Person]:
    """Return the firms that sell material, of one half."""
    return [Person(f"{firm} Supplies", f"office@{firm.lower()}.example") for firm in _FIRMS[half]]


def repairers(half: Half) -> Sequence[Person]:
    """Return the firms that mend machines, of one half."""
    return [Person(f"{firm} Repairs", f"service@{firm.lower()}-repairs.example") for firm in _FIRMS[half]]
