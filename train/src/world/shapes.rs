//! Polygons and solids. Sources: names and counts of regular and Archimedean solids as in H. S. M.
//! Coxeter, Regular Polytopes; names of polygons as in any school geometry.

use super::Family;
use super::Known::{Common, Myth, Rare, Unknown};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        verb: "has",
        counted: "sides",
        members: &[
            ("a triangle", 3, Common),
            ("a square", 4, Common),
            ("a pentagon", 5, Common),
            ("a hexagon", 6, Common),
            ("a heptagon", 7, Common),
            ("an octagon", 8, Common),
            ("a nonagon", 9, Myth(19)),
            ("a decagon", 10, Common),
            ("a hendecagon", 11, Rare),
            ("a dodecagon", 12, Common),
            ("a tridecagon", 13, Rare),
            ("a tetradecagon", 14, Unknown),
            ("a pentadecagon", 15, Rare),
            ("an icosagon", 20, Rare),
        ],
    },
    Family {
        verb: "has",
        counted: "faces",
        members: &[
            ("a cube", 6, Common),
            ("a tetrahedron", 4, Common),
            ("a square pyramid", 5, Common),
            ("a triangular prism", 5, Common),
            ("an octahedron", 8, Common),
            ("a dodecahedron", 12, Rare),
            ("an icosahedron", 20, Rare),
            ("a hexagonal prism", 8, Common),
            ("a cuboctahedron", 14, Rare),
            ("a rhombicuboctahedron", 26, Rare),
            ("a truncated icosahedron", 32, Rare),
            ("a snub cube", 38, Rare),
        ],
    },
    Family {
        verb: "has",
        counted: "edges",
        members: &[
            ("a cube", 12, Common),
            ("a tetrahedron", 6, Common),
            ("a square pyramid", 8, Common),
            ("a triangular prism", 9, Common),
            ("an octahedron", 12, Myth(16)),
            ("a dodecahedron", 30, Rare),
            ("an icosahedron", 30, Myth(40)),
            ("a cuboctahedron", 24, Rare),
            ("a truncated cube", 36, Unknown),
            ("a rhombicuboctahedron", 48, Rare),
        ],
    },
    Family {
        verb: "has",
        counted: "corners",
        members: &[
            ("a cube", 8, Common),
            ("a tetrahedron", 4, Common),
            ("a square pyramid", 5, Common),
            ("an octahedron", 6, Common),
            ("a dodecahedron", 20, Myth(12)),
            ("an icosahedron", 12, Myth(20)),
        ],
    },
];
