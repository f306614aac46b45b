//! What cuDNN does where it is loaded: attention and convolutions that it supports.
//!
//! The one place where that is decided. A planner takes the library's way, and counts the most that a workspace may be.
//! Must not know how this crate's own kernels do the same.

use super::attention::Attention;
use super::conv::{Conv3d, Window};
use super::elementwise;
use crate::{Device, Dtype, Result, Tensor};

/// The most that an attention may take beside its tensors; cuDNN 9.28 takes 256 bytes.
const ATTENTION_WORKSPACE_BYTES: usize = 1 << 20;
/// The most that a convolution may take beside its tensors. Those of 3 channels take most, for copies in eights: cuDNN
/// 9.28 up to 61 MB at 720 x 480.
const CONV_WORKSPACE_BYTES: usize = 64 << 20;

/// Attends; false if the library cannot, or is not there.
pub(super) fn attend(call: &Attention<'_>, out: &Tensor) -> Result<bool> {
    if out.is_empty() || !call.suits_library() {
        return Ok(false);
    }
    if out.device().is_planner() {
        return plan(out.device(), ATTENTION_WORKSPACE_BYTES);
    }
    #[cfg(feature = "cuda")]
    if let Some(graph) = call.graph()? {
        use crate::cudnn::{SdpaGraph, Work};

        let [q, k, v] = [call.q, call.k, call.v].map(|heads| heads.address());
        let addresses =
            [(SdpaGraph::Q, q), (SdpaGraph::K, k), (SdpaGraph::V, v), (SdpaGraph::O, out.address())];
        return run(out.device(), &Work::Sdpa(graph), ATTENTION_WORKSPACE_BYTES, &addresses);
    }
    Ok(false)
}

/// Convolves, and adds the residual after rounding; false if the library cannot, or is not there.
pub(super) fn convolve(
    conv: &Conv3d,
    input: &Tensor,
    window: Window,
    residual: Option<&Tensor>,
    out: &Tensor,
) -> Result<bool> {
    if out.is_empty() || !conv.suits_library(input, window) {
        return Ok(false);
    }
    if !convolve_alone(conv, input, window, out)? {
        return Ok(false);
    }
    if let Some(residual) = residual {
        elementwise::add_in_place(out, residual)?;
    }
    Ok(true)
}

fn convolve_alone(conv: &Conv3d, input: &Tensor, window: Window, out: &Tensor) -> Result<bool> {
    if out.device().is_planner() {
        return plan(out.device(), CONV_WORKSPACE_BYTES);
    }
    #[cfg(feature = "cuda")]
    if let Some(graph) = conv.graph(input, window)? {
        use crate::cudnn::{ConvGraph, Work};

        let mut addresses = vec![
            (ConvGraph::X, input.address()),
            (ConvGraph::W, conv.weight().address()),
            (ConvGraph::Y, out.address()),
        ];
        addresses.extend(conv.bias().map(|bias| (ConvGraph::BIAS, bias.address())));
        return run(out.device(), &Work::Conv(graph), CONV_WORKSPACE_BYTES, &addresses);
    }
    #[cfg(not(feature = "cuda"))]
    let _ = (conv, input, window);
    Ok(false)
}

/// What a planner does: it takes the workspace, unless libraries are not to be used.
fn plan(device: &Device, workspace_bytes: usize) -> Result<bool> {
    if device.own_kernels() {
        return Ok(false);
    }
    Tensor::empty(device, &[workspace_bytes], Dtype::U8)?;
    Ok(true)
}

/// False without the library.
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "executions")]
fn run(
    device: &Device,
    work: &crate::cudnn::Work,
    workspace_limit_bytes: usize,
    addresses: &[(i64, u64)],
) -> Result<bool> {
    let Some((cuda, cudnn)) = device.as_cuda().and_then(|cuda| Some((cuda, cuda.cudnn()?))) else {
        return Ok(false);
    };
    // SAFETY: the graphs describe the tensors, from which they take their sizes, and which lie on this device; memory is
    // given back in the stream's order.
    unsafe { cudnn.run(device, cuda, work, workspace_limit_bytes, addresses) }
}
