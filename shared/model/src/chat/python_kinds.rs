//! Which kind a value is of, by the engine that templates are published for, where ours says
//! otherwise. Knows nothing of conversations.

use minijinja::Value;
use minijinja::value::ValueKind;

/// Nothing at all cannot be gone through: `tools is iterable` tells whether there are tools.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// What has a length and gives parts: texts and objects too.
pub(super) fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Map, Seq, String, Undefined};
    matches!(value.kind(), Map | Seq | String | Undefined)
}

/// Python's truth values are numbers.
pub(super) fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Bool | ValueKind::Number)
}
