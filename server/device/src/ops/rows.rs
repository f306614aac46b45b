//! How operations take tensors apart into rows: the checks, the grid, and when a kernel may take eight elements at once.

use crate::launch::Launch;
use crate::{Device, Dtype, Error, Result, Tensor};

/// Elements that a thread takes at once where it can.
const VECTOR: usize = 8;
/// Bytes of the widest access.
const ALIGNMENT: u64 = 16;
/// Threads of a block that covers part of a row.
const THREADS: u32 = 128;

/// Whether rows of `size` in these tensors can be taken eight elements at once.
pub(super) fn vectors(size: usize, tensors: &[&Tensor]) -> bool {
    size.is_multiple_of(VECTOR) && tensors.iter().all(|tensor| tensor.address().is_multiple_of(ALIGNMENT))
}

/// Items of work in `elements`.
pub(super) fn items(elements: usize, vectors: bool) -> usize {
    if vectors { elements / VECTOR } else { elements }
}

/// Whole warps with a thread for each of `items`, `limit` at most.
pub(super) fn whole_warps(items: usize, limit: usize) -> u32 {
    items.next_multiple_of(32).clamp(32, limit) as u32
}

/// The number of rows and their size: all dimensions but the last, and the last.
pub(super) fn rows(op: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    let Some((&size, outer)) = x.dims().split_last() else {
        return Err(Error::shape(op, "expected rows, found a scalar"));
    };
    Ok((outer.iter().product(), size))
}

/// What a tensor must be.
pub(super) struct Expected<'a> {
    pub(super) op: &'static str,
    pub(super) dtype: Dtype,
    pub(super) device: &'a Device,
}

impl<'a> Expected<'a> {
    /// The dtype and device of `x`.
    pub(super) fn like(op: &'static str, x: &'a Tensor) -> Self {
        Self { op, dtype: x.dtype(), device: x.device() }
    }

    /// That `tensor`, called `name` in messages, is `dims`.
    pub(super) fn check(&self, name: &str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
        self.device.expect_same(self.op, tensor.device())?;
        if (tensor.dtype(), tensor.dims()) == (self.dtype, dims) {
            return Ok(());
        }
        let (expected, found) = (self.dtype, tensor.dtype());
        let message = format!("{name}: expected {expected} {dims:?}, found {found} {:?}", tensor.dims());
        Err(Error::shape(self.op, message))
    }

    /// As [`Self::check`], where there is one.
    pub(super) fn check_some(&self, name: &str, tensor: Option<&Tensor>, dims: &[usize]) -> Result<()> {
        tensor.map_or(Ok(()), |tensor| self.check(name, tensor, dims))
    }
}

/// Blocks that follow each other along each row; `place` in C++.
#[derive(Clone, Copy)]
pub(super) struct RowGrid {
    rows: usize,
    pub(super) blocks_per_row: u32,
}

impl RowGrid {
    pub(super) fn new(rows: usize, size: usize, vectors: bool) -> Self {
        Self { rows, blocks_per_row: items(size, vectors).div_ceil(THREADS as usize) as u32 }
    }

    pub(super) fn launch(self, kernel: &'static str) -> Launch {
        Launch::new(kernel, self.rows * self.blocks_per_row as usize, THREADS)
    }
}
