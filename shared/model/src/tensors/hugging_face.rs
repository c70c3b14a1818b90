//! Tensors of a Hugging Face folder.

use super::{Naming, TensorRole, TensorSource, TensorView};
use crate::error::ModelError;
use crate::error::advice::DAMAGED;
use crate::hugging_face::ModelFolder;
use crate::weights::Matrix;

impl ModelFolder {
    /// Whether there is an output layer that is not the embedding again. Where there is, a file that
    /// ties the two is not believed: transformers goes by the tensors too, and so does what
    /// converters make of the folder.
    pub(crate) fn has_own_output(&self) -> bool {
        let [output, embedding] = [TensorRole::Output, TensorRole::Embedding]
            .map(|role| self.tensor(&self.naming().name(role)).map(|(_, tensor)| tensor));
        let (Some(output), Some(embedding)) = (output, embedding) else {
            return output.is_some();
        };
        let repeats = output.format == embedding.format
            && output.shape == embedding.shape
            && *output.bytes == *embedding.bytes;
        output.bytes.release();
        embedding.bytes.release();
        !repeats
    }
}

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

    fn find(&self, name: &str, shape: &[usize]) -> Result<Option<Matrix>, ModelError> {
        self.tensor(name).map_or(Ok(None), |(file, _)| file.view(name, shape))
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
