//! Builds a graph of operations piece by piece.
//!
//! Sums and intermediate results are f32 throughout. Relies on [`super::descriptor`]; must not know what the graph is
//! for.

use std::sync::Arc;

use super::Target;
use super::descriptor::Descriptor;
use super::graph::{Graph, Operand, Parts};
use super::library::Library;
use super::sys::{self, attribute, value_type};
use crate::{Dtype, Error, Result};

/// What the addresses of operands are multiples of; every engine for these graphs copies 16 bytes at a time.
pub(super) const ALIGNMENT_BYTES: u64 = 16;
/// Ids of tensors that exist inside the graph only, above those of operands.
const FIRST_VIRTUAL_ID: i64 = 100;

/// A graph under construction. Tensors are named by [`TensorId`]s, operations are kept in order.
pub(super) struct Builder<'a> {
    target: &'a Target<'a>,
    descriptors: Vec<Descriptor>,
    operations: Vec<usize>,
    operands: Vec<Operand>,
    constants: Vec<(i64, f32)>,
    next_virtual_id: i64,
}

/// A tensor of the graph being built.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorId(usize);

/// How a convolution's filter goes over its input: depth, height, width.
pub(super) struct Window {
    pub(super) pre_padding: [i64; 3],
    pub(super) post_padding: [i64; 3],
    pub(super) strides: [i64; 3],
}

impl<'a> Builder<'a> {
    pub(super) fn new(target: &'a Target<'a>) -> Self {
        Self {
            target,
            descriptors: Vec::new(),
            operations: Vec::new(),
            operands: Vec::new(),
            constants: Vec::new(),
            next_virtual_id: FIRST_VIRTUAL_ID,
        }
    }

    fn library(&self) -> &'a Library {
        self.target.library()
    }

    fn push(&mut self, descriptor: Descriptor) -> usize {
        self.descriptors.push(descriptor);
        self.descriptors.len() - 1
    }

    fn push_operation(&mut self, descriptor: Descriptor) -> Result<()> {
        let index = self.push(descriptor.finalize()?);
        self.operations.push(index);
        Ok(())
    }

    fn tensor(&self, id: i64, dtype: u32, dims: &[i64], strides: &[i64]) -> Result<Descriptor> {
        let mut tensor = Descriptor::new(self.library(), sys::TENSOR)?;
        tensor.set_i64s(attribute::TENSOR_UNIQUE_ID, &[id])?;
        tensor.set_enum(attribute::TENSOR_DATA_TYPE, value_type::DATA_TYPE, dtype)?;
        tensor.set_i64s(attribute::TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT_BYTES as i64])?;
        tensor.set_i64s(attribute::TENSOR_DIMENSIONS, dims)?;
        tensor.set_i64s(attribute::TENSOR_STRIDES, strides)?;
        Ok(tensor)
    }

    /// A tensor in the device's memory.
    pub(super) fn operand(&mut self, operand: Operand) -> Result<TensorId> {
        let dtype = data_type(operand.dtype)?;
        let tensor = self.tensor(operand.id, dtype, &operand.dims, &operand.strides)?.finalize()?;
        self.operands.push(operand);
        Ok(TensorId(self.push(tensor)))
    }

    /// A tensor that is never in memory.
    pub(super) fn intermediate(&mut self, dtype: Dtype, dims: &[i64], strides: &[i64]) -> Result<TensorId> {
        let id = self.next_virtual_id;
        self.next_virtual_id += 1;
        let mut tensor = self.tensor(id, data_type(dtype)?, dims, strides)?;
        tensor.set_bool(attribute::TENSOR_IS_VIRTUAL, true)?;
        let tensor = tensor.finalize()?;
        Ok(TensorId(self.push(tensor)))
    }

    /// One number, of as many dimensions as attention's tensors have.
    pub(super) fn constant(&mut self, id: i64, value: f32) -> Result<TensorId> {
        let mut tensor = self.tensor(id, sys::DATA_FLOAT, &[1; 4], &[1; 4])?;
        tensor.set_bool(attribute::TENSOR_IS_BY_VALUE, true)?;
        let tensor = tensor.finalize()?;
        self.constants.push((id, value));
        Ok(TensorId(self.push(tensor)))
    }

    fn set_tensors(&self, operation: &mut Descriptor, tensors: &[(u32, TensorId)]) -> Result<()> {
        for (attribute, tensor) in tensors {
            operation.set_descriptors(*attribute, &[&self.descriptors[tensor.0]])?;
        }
        Ok(())
    }

    /// `y = mode(x)` or `y = mode(x, b)`, element by element; `b` may be of size 1 where `x` is not.
    pub(super) fn pointwise(
        &mut self,
        mode: u32,
        x: TensorId,
        b: Option<TensorId>,
        y: TensorId,
    ) -> Result<()> {
        let mut how = Descriptor::new(self.library(), sys::POINTWISE)?;
        how.set_enum(attribute::POINTWISE_MODE, value_type::POINTWISE_MODE, mode)?;
        how.set_enum(attribute::POINTWISE_MATH_PREC, value_type::DATA_TYPE, sys::DATA_FLOAT)?;
        let how = how.finalize()?;
        let mut operation = Descriptor::new(self.library(), sys::OPERATION_POINTWISE)?;
        operation.set_descriptors(attribute::OPERATION_POINTWISE_PW_DESCRIPTOR, &[&how])?;
        self.set_tensors(&mut operation, &[(attribute::OPERATION_POINTWISE_XDESC, x)])?;
        if let Some(b) = b {
            self.set_tensors(&mut operation, &[(attribute::OPERATION_POINTWISE_BDESC, b)])?;
        }
        self.set_tensors(&mut operation, &[(attribute::OPERATION_POINTWISE_YDESC, y)])?;
        self.push(how);
        self.push_operation(operation)
    }

    /// `y` is `x` reduced along the dimensions in which `y` has size 1.
    pub(super) fn reduction(&mut self, operator: u32, x: TensorId, y: TensorId) -> Result<()> {
        let mut how = Descriptor::new(self.library(), sys::REDUCTION)?;
        how.set_enum(attribute::REDUCTION_OPERATOR, value_type::REDUCTION_OPERATOR_TYPE, operator)?;
        how.set_enum(attribute::REDUCTION_COMP_TYPE, value_type::DATA_TYPE, sys::DATA_FLOAT)?;
        let how = how.finalize()?;
        let mut operation = Descriptor::new(self.library(), sys::OPERATION_REDUCTION)?;
        operation.set_descriptors(attribute::OPERATION_REDUCTION_DESC, &[&how])?;
        let tensors = [(attribute::OPERATION_REDUCTION_XDESC, x), (attribute::OPERATION_REDUCTION_YDESC, y)];
        self.set_tensors(&mut operation, &tensors)?;
        self.push(how);
        self.push_operation(operation)
    }

    /// `c = a b`, in the last two dimensions.
    pub(super) fn matmul(&mut self, a: TensorId, b: TensorId, c: TensorId) -> Result<()> {
        let mut how = Descriptor::new(self.library(), sys::MATMUL)?;
        how.set_enum(attribute::MATMUL_COMP_TYPE, value_type::DATA_TYPE, sys::DATA_FLOAT)?;
        let how = how.finalize()?;
        let mut operation = Descriptor::new(self.library(), sys::OPERATION_MATMUL)?;
        operation.set_descriptors(attribute::OPERATION_MATMUL_DESC, &[&how])?;
        let tensors = [
            (attribute::OPERATION_MATMUL_ADESC, a),
            (attribute::OPERATION_MATMUL_BDESC, b),
            (attribute::OPERATION_MATMUL_CDESC, c),
        ];
        self.set_tensors(&mut operation, &tensors)?;
        self.push(how);
        self.push_operation(operation)
    }

    /// `y` is `x` filtered by `w`, in three spatial dimensions.
    pub(super) fn convolution(
        &mut self,
        window: &Window,
        x: TensorId,
        w: TensorId,
        y: TensorId,
    ) -> Result<()> {
        let mut how = Descriptor::new(self.library(), sys::CONVOLUTION)?;
        how.set_i64s(attribute::CONVOLUTION_SPATIAL_DIMS, &[3])?;
        how.set_enum(attribute::CONVOLUTION_COMP_TYPE, value_type::DATA_TYPE, sys::DATA_FLOAT)?;
        how.set_enum(attribute::CONVOLUTION_CONV_MODE, value_type::CONVOLUTION_MODE, sys::CROSS_CORRELATION)?;
        how.set_i64s(attribute::CONVOLUTION_PRE_PADDINGS, &window.pre_padding)?;
        how.set_i64s(attribute::CONVOLUTION_POST_PADDINGS, &window.post_padding)?;
        how.set_i64s(attribute::CONVOLUTION_FILTER_STRIDES, &window.strides)?;
        how.set_i64s(attribute::CONVOLUTION_DILATIONS, &[1; 3])?;
        let how = how.finalize()?;
        let mut operation = Descriptor::new(self.library(), sys::OPERATION_CONVOLUTION_FORWARD)?;
        operation.set_descriptors(attribute::OPERATION_CONVOLUTION_FORWARD_CONV_DESC, &[&how])?;
        let tensors = [
            (attribute::OPERATION_CONVOLUTION_FORWARD_X, x),
            (attribute::OPERATION_CONVOLUTION_FORWARD_W, w),
            (attribute::OPERATION_CONVOLUTION_FORWARD_Y, y),
        ];
        self.set_tensors(&mut operation, &tensors)?;
        operation.set_f32(attribute::OPERATION_CONVOLUTION_FORWARD_ALPHA, 1.0)?;
        operation.set_f32(attribute::OPERATION_CONVOLUTION_FORWARD_BETA, 0.0)?;
        self.push(how);
        self.push_operation(operation)
    }

    /// `o = softmax(scale q k^T) v`, as one operation.
    pub(super) fn sdpa(&mut self, [q, k, v, o]: [TensorId; 4], scale: TensorId) -> Result<()> {
        let mut operation = Descriptor::new(self.library(), sys::OPERATION_SDPA_FWD)?;
        let tensors = [
            (attribute::OPERATION_SDPA_FWD_QDESC, q),
            (attribute::OPERATION_SDPA_FWD_KDESC, k),
            (attribute::OPERATION_SDPA_FWD_VDESC, v),
            (attribute::OPERATION_SDPA_FWD_ODESC, o),
            (attribute::OPERATION_SDPA_FWD_SCALEDESC, scale),
        ];
        self.set_tensors(&mut operation, &tensors)?;
        self.push_operation(operation)
    }

    /// The graph of all operations so far.
    pub(super) fn finish(self, name: &'static str) -> Result<Graph> {
        let mut graph = Descriptor::new(self.library(), sys::OPERATIONGRAPH)?;
        let operations: Vec<&Descriptor> =
            self.operations.iter().map(|index| &self.descriptors[*index]).collect();
        graph.set_descriptors(attribute::OPERATIONGRAPH_OPS, &operations)?;
        if let Target::Handle(handle) = self.target {
            graph.set_handle(attribute::OPERATIONGRAPH_HANDLE, handle)?;
        }
        let graph = graph.finalize()?;
        let Self { descriptors, operands, constants, .. } = self;
        Ok(Graph(Arc::new(Parts { name, graph, _kept: descriptors, operands, constants })))
    }
}

fn data_type(dtype: Dtype) -> Result<u32> {
    match dtype {
        Dtype::F32 => Ok(sys::DATA_FLOAT),
        Dtype::F16 => Ok(sys::DATA_HALF),
        Dtype::Bf16 => Ok(sys::DATA_BFLOAT16),
        other => Err(Error::shape("cudnn", format!("expected f32, f16 or bf16, found {other}"))),
    }
}

/// Strides of dimensions that lie in memory in their own order.
pub(super) fn packed_strides(dims: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; dims.len()];
    for index in (1..dims.len()).rev() {
        strides[index - 1] = strides[index] * dims[index];
    }
    strides
}
