//! Tensors of a GGUF file.

use super::{Naming, TensorRole, TensorSource, TensorView};
use crate::error::ModelError;
use crate::gguf::GgufFile;
use crate::weights::Matrix;

impl TensorSource for GgufFile {
    fn naming(&self) -> Naming {
        Naming::Gguf
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensor_names())
    }

    fn has(&self, role: TensorRole) -> bool {
        self.tensor(&self.naming().name(role)).is_some()
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<Matrix>, ModelError> {
        self.view(name, shape)
    }

    fn views(&self) -> Vec<TensorView<'_>> {
        let views = self.tensors().map(|(name, entry, bytes)| TensorView {
            name,
            format: entry.format,
            shape: &entry.shape,
            bytes,
        });
        views.collect()
    }

    fn bad(&self, what: String, advice: &'static str) -> ModelError {
        self.bad(what, advice)
    }
}
