//! What every source of weights does to a tensor.

use candle_core::{DType, Device, Result, Tensor, bail};

/// A tensor as f32 on the device.
///
/// # Errors
/// When it holds a value that is not finite.
pub fn finite_f32(tensor: &Tensor, device: &Device) -> Result<Tensor> {
    let tensor = tensor.to_dtype(DType::F32)?;
    let sum = tensor.abs()?.sum_all()?.to_scalar::<f32>()?;
    if !sum.is_finite() {
        bail!("it holds values that are not finite");
    }
    tensor.to_device(device)
}
