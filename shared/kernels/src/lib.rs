//! Hot loops on a CPU: slices in, slices out.
