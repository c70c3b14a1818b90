//! Brings a file's tensors to a device, in the precision they are multiplied in there, and counts
//! their bytes.

use candle_core::{DType, Device, Tensor};

use super::{DeviceChoice, DeviceFault, DevicePlace, first_line};
use crate::architecture::TensorReader;
use crate::error::ModelError;
use crate::tensors::{TensorRole, TensorSource};

/// From this magnitude on a number rounds to an infinity of 16 bits (IEEE 754 binary16).
const F16_BEYOND: f32 = 65_520.0;

const OTHER_PRECISION: &str = "set device_precision = \"bf16\" or \"f32\"";
const TOO_LARGE: &str = "free the device's memory, choose a smaller model, or set device = \"cpu\"";
const FAILED: &str = "see whether the device and its driver are in order, or set device = \"cpu\"";

pub(super) struct DeviceReader<'a> {
    source: &'a dyn TensorSource,
    place: &'a DevicePlace,
    bytes: usize,
}

impl<'a> DeviceReader<'a> {
    pub(super) fn new(source: &'a dyn TensorSource, place: &'a DevicePlace) -> Self {
        Self { source, place, bytes: 0 }
    }

    /// Bytes of all that was brought.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn bring(
        &mut self,
        role: TensorRole,
        values: Vec<f32>,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Tensor, ModelError> {
        if dtype == DType::F16 && values.iter().any(|value| value.abs() >= F16_BEYOND) {
            let what = "holds numbers beyond the range of f16".to_owned();
            return Err(self.fault(role, &what, OTHER_PRECISION));
        }
        self.bytes += values.len() * dtype.size_in_bytes();
        let here = Tensor::from_vec(values, shape, &Device::Cpu);
        let there = here
            .and_then(|tensor| tensor.to_dtype(dtype))
            .and_then(|tensor| tensor.to_device(&self.place.device));
        there.map_err(|error| {
            let what = first_line(&error);
            let advice = if what.to_lowercase().contains("memory") { TOO_LARGE } else { FAILED };
            self.fault(role, &format!("cannot be brought there: {what}"), advice)
        })
    }

    fn fault(&self, role: TensorRole, what: &str, advice: &'static str) -> ModelError {
        let name = self.source.naming().name(role);
        ModelError::Device(DeviceFault {
            device: DeviceChoice::from(self.place.device.location()),
            what: format!("tensor {name} {what}"),
            advice,
        })
    }
}

impl TensorReader for DeviceReader<'_> {
    type Table = Tensor;
    type Matrix = Tensor;
    type Vector = Tensor;

    fn source(&self) -> &dyn TensorSource {
        self.source
    }

    fn table(&mut self, role: TensorRole, shape: [usize; 2]) -> Result<Tensor, ModelError> {
        self.matrix(role, shape)
    }

    fn matrix(&mut self, role: TensorRole, shape: [usize; 2]) -> Result<Tensor, ModelError> {
        let matrix = self.source.matrix(role, &shape)?;
        let values = matrix.values();
        matrix.release();
        self.bring(role, values, &shape, self.place.dtype)
    }

    /// Vectors stay in f32: they are few, and what they meet is f32.
    fn vector(&mut self, role: TensorRole, len: usize) -> Result<Tensor, ModelError> {
        let values = self.source.vector(role, len)?;
        self.bring(role, values, &[len], DType::F32)
    }
}
