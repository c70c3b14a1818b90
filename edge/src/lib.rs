//! The device: a small model that calls a large one for a few words.
