//! Where a model computes: our own kernels on this processor, or candle's operations on a device.
//!
//! Owns the choice, its spelling in settings, and opening what was chosen. The forward pass on a
//! device is below. `Device` and its tensors are known here and below, and in the pages of a cache
//! that lies on a device; nowhere else.

mod attention;
mod reader;
mod rotary;
mod transformer;

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, DeviceLocation};
use serde::{Deserialize, Serialize};

pub(crate) use transformer::DeviceTransformer;

/// What a model computes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// This processor, with the kernels of this product.
    #[default]
    Cpu,
    /// This processor, with the forward pass of devices: to test and compare that pass where there
    /// is no device. `Cpu` is faster.
    CandleCpu,
    /// An NVIDIA card, by its index.
    Cuda(usize),
    /// The graphics part of an Apple processor.
    Metal,
}

impl DeviceChoice {
    /// Refuses what this build has no code for.
    ///
    /// # Errors
    /// A fault that names the feature to build with.
    pub fn check_build(self) -> Result<(), DeviceFault> {
        let (is_built_in, advice) = match self {
            Self::Cpu | Self::CandleCpu => (true, ""),
            Self::Cuda(_) => (
                cfg!(feature = "cuda"),
                "build with `--features cuda` where the CUDA toolkit is, or set device = \"cpu\"",
            ),
            Self::Metal => (
                cfg!(feature = "metal"),
                "build with `--features metal` on macOS, or set device = \"cpu\"",
            ),
        };
        if is_built_in {
            return Ok(());
        }
        Err(self.refusal("this build cannot use it".to_owned(), advice))
    }

    /// Candle's device; `None` where our own kernels compute.
    ///
    /// # Errors
    /// A fault if the build has no code for it or the machine does not have it.
    fn open(self) -> Result<Option<Device>, DeviceFault> {
        self.check_build()?;
        let opened = match self {
            Self::Cpu => return Ok(None),
            Self::CandleCpu => Ok(Device::Cpu),
            Self::Cuda(index) => Device::new_cuda(index),
            Self::Metal => Device::new_metal(0),
        };
        let advice =
            "name one that this machine has and its driver offers, or set device = \"cpu\"";
        opened.map(Some).map_err(|error| self.refusal(first_line(&error), advice))
    }

    /// What computes, whichever of its kind: two cards give the same numbers.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CandleCpu => "candle-cpu",
            Self::Cuda(_) => "cuda",
            Self::Metal => "metal",
        }
    }

    fn refusal(self, what: String, advice: &'static str) -> DeviceFault {
        DeviceFault { device: self, what, advice }
    }
}

/// A device that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device {device}: {what}; {advice}")]
pub struct DeviceFault {
    /// Which.
    pub device: DeviceChoice,
    /// What is wrong with it.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl From<DeviceLocation> for DeviceChoice {
    fn from(location: DeviceLocation) -> Self {
        match location {
            DeviceLocation::Cpu => Self::CandleCpu,
            DeviceLocation::Cuda { gpu_id } => Self::Cuda(gpu_id),
            DeviceLocation::Metal { .. } => Self::Metal,
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::CandleCpu => formatter.write_str("candle-cpu"),
            Self::Cuda(0) => formatter.write_str("cuda"),
            Self::Cuda(index) => write!(formatter, "cuda:{index}"),
            Self::Metal => formatter.write_str("metal"),
        }
    }
}

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no device; write \"cpu\", \"cuda\", \"cuda:1\" (a card's index) or \"metal\"")]
pub struct NoSuchDevice {
    text: String,
}

impl FromStr for DeviceChoice {
    type Err = NoSuchDevice;

    fn from_str(text: &str) -> Result<Self, NoSuchDevice> {
        match text {
            "cpu" => Some(Self::Cpu),
            "candle-cpu" => Some(Self::CandleCpu),
            "cuda" => Some(Self::Cuda(0)),
            "metal" => Some(Self::Metal),
            _ => {
                let index = text.strip_prefix("cuda:");
                index.and_then(|index| index.parse().ok()).map(Self::Cuda)
            }
        }
        .ok_or_else(|| NoSuchDevice { text: text.to_owned() })
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = NoSuchDevice;

    fn try_from(text: String) -> Result<Self, NoSuchDevice> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

/// What weights, keys and values are kept and multiplied in on a device. Norms, rotary positions,
/// softmax and the sum that runs through the layers are f32 in every case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DevicePrecision {
    /// 4 bytes a weight: the numbers of the CPU path, but for rounding.
    F32,
    /// 2 bytes a weight; for cards that have no bf16. Some models' activations leave its range.
    F16,
    /// 2 bytes a weight, with the range of f32.
    #[default]
    Bf16,
}

impl DevicePrecision {
    /// Bytes of one number.
    pub(crate) fn number_bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 | Self::Bf16 => size_of::<u16>(),
        }
    }
}

impl fmt::Display for DevicePrecision {
    /// As settings spell it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}

/// A device that was opened, and the precision on it.
#[derive(Debug, Clone)]
pub(crate) struct DevicePlace {
    pub(crate) device: Device,
    pub(crate) dtype: DType,
}

impl DevicePlace {
    /// Opens what was chosen; `None` where our own kernels compute.
    pub(crate) fn open(
        choice: DeviceChoice,
        precision: DevicePrecision,
    ) -> Result<Option<Self>, DeviceFault> {
        let dtype = match precision {
            DevicePrecision::F32 => DType::F32,
            DevicePrecision::F16 => DType::F16,
            DevicePrecision::Bf16 => DType::BF16,
        };
        Ok(choice.open()?.map(|device| Self { device, dtype }))
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.dtype == other.dtype && self.device.same_device(&other.device)
    }
}

/// What a device's library said, without the trace that may follow it.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        let table = [
            ("cpu", DeviceChoice::Cpu),
            ("candle-cpu", DeviceChoice::CandleCpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
            ("metal", DeviceChoice::Metal),
        ];
        for (text, choice) in table {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), text);
            let json = serde_json::to_string(&choice).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<DeviceChoice>(&json).unwrap(), choice);
        }
        assert_eq!("cuda:0".parse(), Ok(DeviceChoice::Cuda(0)));
        for text in ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "metal:0"] {
            let refusal = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(refusal.contains("\"cuda:1\""), "{refusal}");
        }
    }

    #[test]
    fn what_the_build_lacks_is_refused_with_its_feature() {
        let table = [
            (DeviceChoice::Cuda(1), cfg!(feature = "cuda"), "device cuda:1", "--features cuda"),
            (DeviceChoice::Metal, cfg!(feature = "metal"), "device metal", "--features metal"),
        ];
        for (choice, is_built_in, name, feature) in table {
            match choice.check_build() {
                Ok(()) => assert!(is_built_in, "{choice}"),
                Err(refusal) => {
                    assert!(!is_built_in, "{choice}");
                    let refusal = refusal.to_string();
                    assert!(refusal.contains(name) && refusal.contains(feature), "{refusal}");
                    assert!(DevicePlace::open(choice, DevicePrecision::F32).is_err());
                }
            }
        }
        assert!(DeviceChoice::Cpu.check_build().is_ok());
    }
}
