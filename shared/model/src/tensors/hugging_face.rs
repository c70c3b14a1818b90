//! Tensors of a Hugging Face folder.

use super::{Naming, TensorRole, TensorSource, TensorView};
use crate::error::ModelError;
use crate::error::advice::{DAMAGED, INCOMPLETE};
use crate::hugging_face::ModelFolder;
use crate::weights::Matrix;

impl TensorSource for ModelFolder {
    fn naming(&self) -> Naming {
        Naming::HuggingFace
    }

    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors().map(|(name, _)| name))
    }

    fn has(&self, role: TensorRole) -> bool {
        self.tensor(&self.naming().name(role)).is_some()
    }

    fn stored(&self, role: TensorRole, shape: &[usize]) -> Result<Matrix, ModelError> {
        let name = self.naming().name(role);
        match self.tensor(&name) {
            Some((file, _)) => file.view(&name, shape),
            None => Err(self.bad(format!("tensor {name} is missing"), INCOMPLETE)),
        }
    }

    fn views(&self) -> Vec<TensorView<'_>> {
        let views = self.tensors().map(|(name, tensor)| TensorView {
            name,
            format: tensor.format,
            shape: &tensor.shape,
            bytes: &tensor.bytes,
        });
        views.collect()
    }

    fn bad(&self, what: String, advice: &'static str) -> ModelError {
        ModelError::bad_file(self.files().path(), what, advice)
    }

    fn bad_tensor(&self, role: TensorRole, what: String) -> ModelError {
        match self.tensor(&self.naming().name(role)) {
            Some((file, _)) => file.bad(what, DAMAGED),
            None => self.bad(what, DAMAGED),
        }
    }
}
