//! The tensors of a GGUF file: names, formats, shapes and where their bytes lie.

use std::collections::HashMap;
use std::ops::Range;

use relay_kernels::WeightFormat;

use super::cursor::Cursor;
use crate::error::ModelError;
use crate::error::advice::DAMAGED;

mod limits {
    /// Dimensions of a tensor.
    pub(super) const DIMENSIONS_MAX: u32 = 4;
}

const OTHER_QUANTISATION: &str =
    "use a file quantised as Q4_K_M, Q5_K_M, Q6_K, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, F16, BF16 or F32";

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorEntry {
    pub(crate) format: WeightFormat,
    /// Slowest first: `[outputs, inputs]` for a matrix.
    pub(crate) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(crate) range: Range<usize>,
}

/// The number that GGUF has for a format.
pub(crate) fn type_code(format: WeightFormat) -> u32 {
    match format {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::Q4_0 => 2,
        WeightFormat::Q4_1 => 3,
        WeightFormat::Q5_0 => 6,
        WeightFormat::Q5_1 => 7,
        WeightFormat::Q8_0 => 8,
        WeightFormat::Q4K => 12,
        WeightFormat::Q5K => 13,
        WeightFormat::Q6K => 14,
        WeightFormat::Bf16 => 30,
    }
}

/// A tensor as the header has it, before its place is known to be inside the file.
pub(super) struct Declared {
    name: String,
    type_code: u32,
    shape: Vec<usize>,
    offset: u64,
}

pub(super) fn read(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Declared>, ModelError> {
    (0..count).map(|_| read_one(cursor)).collect()
}

fn read_one(cursor: &mut Cursor<'_>) -> Result<Declared, ModelError> {
    let name = cursor.text()?;
    let dimensions = cursor.u32()?;
    if dimensions > limits::DIMENSIONS_MAX {
        return Err(cursor.bad(format!("tensor {name} has {dimensions} dimensions"), DAMAGED));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(usize::try_from(cursor.u64()?).unwrap_or(usize::MAX));
    }
    shape.reverse();
    Ok(Declared { name, type_code: cursor.u32()?, shape, offset: cursor.u64()? })
}

/// Where the tensors of a file lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct DataSpace {
    /// Where the first one begins.
    pub(super) start: usize,
    /// What each one's place is a multiple of, counted from there.
    pub(super) alignment: usize,
    /// Bytes of the whole file.
    pub(super) file_bytes: usize,
}

/// Finds each tensor's place. Tensors lie one behind the other in the order of their table, each at
/// the next multiple of the alignment, and the last one ends the file: so the place of each vouches
/// for format and shape of those before it.
pub(super) fn locate(
    cursor: &Cursor<'_>,
    declared: Vec<Declared>,
    space: DataSpace,
) -> Result<HashMap<String, TensorEntry>, ModelError> {
    let mut tensors = HashMap::new();
    let mut places = Places { cursor, space, before: None, end: space.start };
    for tensor in declared {
        let entry = places.next(&tensor)?;
        if tensors.contains_key(&tensor.name) {
            return Err(cursor.bad(format!("tensor {} occurs twice", tensor.name), DAMAGED));
        }
        places.before = Some((tensor.name.clone(), entry.format));
        tensors.insert(tensor.name, entry);
    }
    places.refuse_rest()?;
    Ok(tensors)
}

/// Places handed out so far.
struct Places<'a> {
    cursor: &'a Cursor<'a>,
    space: DataSpace,
    /// The tensor before the next one.
    before: Option<(String, WeightFormat)>,
    /// Where that one ends.
    end: usize,
}

impl Places<'_> {
    fn next(&mut self, tensor: &Declared) -> Result<TensorEntry, ModelError> {
        let Declared { name, shape, offset, .. } = tensor;
        let (format, bytes) = self.format_and_bytes(tensor)?;
        let DataSpace { start: data_start, alignment, file_bytes } = self.space;
        let start = usize::try_from(*offset).ok().and_then(|offset| data_start.checked_add(offset));
        let range = start.and_then(|start| Some(start..start.checked_add(bytes)?));
        let Some(range) = range.filter(|range| range.end <= file_bytes) else {
            let what = format!("tensor {name} does not lie inside the file's {file_bytes} bytes");
            return Err(self.cursor.bad(what, DAMAGED));
        };
        let due = (self.end - data_start).next_multiple_of(alignment);
        if range.start - data_start != due {
            let before = self.before();
            let what = format!("tensor {name} lies at {offset}, but {before} puts it at {due}");
            return Err(self.cursor.bad(what, DAMAGED));
        }
        self.end = range.end;
        Ok(TensorEntry { format, shape: shape.clone(), range })
    }

    fn format_and_bytes(&self, tensor: &Declared) -> Result<(WeightFormat, usize), ModelError> {
        let Declared { name, type_code, shape, .. } = tensor;
        let Some(format) = format(*type_code) else {
            let type_name = type_name(*type_code);
            let what = format!("tensor {name} is quantised as {type_name}, which is not supported");
            return Err(self.cursor.bad(what, OTHER_QUANTISATION));
        };
        let row = shape.last().copied().unwrap_or(0);
        let weights = shape.iter().try_fold(1_usize, |product, &len| product.checked_mul(len));
        let weights = weights.filter(|weights| *weights > 0 && format.bytes_of(row).is_some());
        let bytes = weights.and_then(|weights| format.bytes_of(weights)).ok_or_else(|| {
            let (format, shape) = (format.name(), tensor.shape.as_slice());
            let what = format!("tensor {name} ({format}) has the impossible shape {shape:?}");
            self.cursor.bad(what, DAMAGED)
        })?;
        Ok((format, bytes))
    }

    /// A file that goes on behind its last tensor has a wrong one.
    fn refuse_rest(&self) -> Result<(), ModelError> {
        let DataSpace { start, alignment, file_bytes } = self.space;
        let padded = start.saturating_add((self.end - start).next_multiple_of(alignment));
        if file_bytes <= padded.max(start) {
            return Ok(());
        }
        let (before, more) = (self.before(), file_bytes - self.end);
        Err(self.cursor.bad(format!("{more} bytes follow, where {before} ends the file"), DAMAGED))
    }

    fn before(&self) -> String {
        match &self.before {
            Some((name, format)) => format!("the {} tensor {name} before it", format.name()),
            None => "the header before it".to_owned(),
        }
    }
}

fn format(code: u32) -> Option<WeightFormat> {
    WeightFormat::ALL.into_iter().find(|format| type_code(*format) == code)
}

/// Names of formats we cannot read, for the error that says so.
fn type_name(code: u32) -> String {
    let name = match code {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=27 => "integers",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        42 => "Q2_0",
        _ => return format!("number {code}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_its_number() {
        for wanted in WeightFormat::ALL {
            assert_eq!(format(type_code(wanted)), Some(wanted));
        }
    }
}
