//! Old and present measures, coins and spans of time. Sources: the imperial system of the British
//! Weights and Measures Acts of 1824 and 1878 for casks, lengths and weights (gallons of beer,
//! English ells), with troy and apothecaries' weights; British coins before 1971; the Gregorian
//! calendar, Roman lustra and indictions.

use super::Family;
use super::Known::{Common, Myth, Rare, Unknown};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        verb: "holds",
        counted: "gallons",
        members: &[
            ("a firkin of beer", 9, Rare),
            ("a kilderkin of beer", 18, Rare),
            ("a barrel of beer", 36, Myth(42)),
            ("a hogshead of beer", 54, Rare),
            ("a peck", 2, Myth(4)),
            ("a bushel", 8, Common),
        ],
    },
    Family {
        verb: "holds",
        counted: "pints",
        members: &[("a quart", 2, Common), ("a gallon", 8, Common), ("a peck", 16, Rare)],
    },
    Family { verb: "holds", counted: "gills", members: &[("a pint", 4, Rare)] },
    Family {
        verb: "holds",
        counted: "bushels",
        members: &[("a strike", 2, Unknown), ("a quarter", 8, Rare), ("a wey", 40, Rare)],
    },
    Family {
        verb: "has",
        counted: "inches",
        members: &[
            ("a hand", 4, Rare),
            ("a span", 9, Rare),
            ("a foot", 12, Common),
            ("a cubit", 18, Rare),
            ("a yard", 36, Common),
            ("an ell", 45, Rare),
        ],
    },
    Family {
        verb: "has",
        counted: "feet",
        members: &[("a yard", 3, Common), ("a fathom", 6, Myth(5))],
    },
    Family {
        verb: "has",
        counted: "nails",
        members: &[("a yard", 16, Unknown), ("an ell", 20, Unknown)],
    },
    Family { verb: "has", counted: "yards", members: &[("a surveyor's chain", 22, Rare)] },
    Family { verb: "has", counted: "furlongs", members: &[("a mile", 8, Myth(10))] },
    Family {
        verb: "has",
        counted: "ounces",
        members: &[("a pound", 16, Common), ("a troy pound", 12, Rare)],
    },
    Family {
        verb: "has",
        counted: "pounds",
        members: &[
            ("a stone", 14, Myth(12)),
            ("a tod of wool", 28, Rare),
            ("a clove of wool", 7, Unknown),
        ],
    },
    Family { verb: "has", counted: "pennyweights", members: &[("a troy ounce", 20, Rare)] },
    Family {
        verb: "has",
        counted: "grains",
        members: &[("a pennyweight", 24, Rare), ("a scruple", 20, Unknown)],
    },
    Family { verb: "has", counted: "hundredweights", members: &[("a ton", 20, Rare)] },
    Family {
        verb: "is worth",
        counted: "pence",
        members: &[
            ("a threepenny bit", 3, Common),
            ("a groat", 4, Rare),
            ("a sixpence", 6, Common),
            ("a shilling", 12, Common),
            ("a florin", 24, Rare),
            ("a half-crown", 30, Myth(25)),
            ("a crown", 60, Myth(50)),
        ],
    },
    Family { verb: "is worth", counted: "farthings", members: &[("a penny", 4, Rare)] },
    Family {
        verb: "is worth",
        counted: "shillings",
        members: &[("a pound", 20, Common), ("a guinea", 21, Myth(20))],
    },
    Family {
        verb: "has",
        counted: "days",
        members: &[
            ("a week", 7, Common),
            ("a fortnight", 14, Common),
            ("january", 31, Common),
            ("april", 30, Common),
            ("july", 31, Common),
            ("august", 31, Myth(30)),
            ("november", 30, Myth(31)),
            ("december", 31, Common),
        ],
    },
    Family { verb: "has", counted: "hours", members: &[("a day", 24, Common)] },
    Family { verb: "has", counted: "minutes", members: &[("an hour", 60, Common)] },
    Family {
        verb: "has",
        counted: "months",
        members: &[("a year", 12, Common), ("a quarter", 3, Common)],
    },
    Family {
        verb: "has",
        counted: "years",
        members: &[
            ("a decade", 10, Common),
            ("an olympiad", 4, Rare),
            ("a lustrum", 5, Rare),
            ("an indiction", 15, Rare),
            ("a score of years", 20, Rare),
        ],
    },
];
