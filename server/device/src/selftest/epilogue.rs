//! `ops::epilogue` against its steps, on inputs whose sums are exact, so that every rounding is the reference's.

use super::elementwise::gelu_tanh_f64;
use super::{Case, FLOATS, Numbers, Outcome, half_unit, rounded};
use crate::ops::epilogue::{
    Activation, Scales, bias_activation, bias_activation_in_place, scale_rows_columns,
};
use crate::{Device, Dtype, Result, Tensor};

const ROWS: usize = 3;
/// One element at a time, in two blocks a row, and eight.
const SIZES: [usize; 2] = [131, 40];

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for size in SIZES {
            for activation in [Activation::Identity, Activation::GeluTanh] {
                for biased in [false, true] {
                    let product = Product { dtype, size, activation, biased };
                    let name = format!("{dtype} {size} {activation:?} biased {biased}");
                    cases.push(Case::new(format!("bias and activation {name}"), move |device| {
                        product.in_f32(device)
                    }));
                    cases.push(Case::new(format!("bias and activation in place {name}"), move |device| {
                        product.in_place(device)
                    }));
                    for integers in [false, true] {
                        let name = format!("scales, bias and activation {name} integers {integers}");
                        cases.push(Case::new(name, move |device| product.scaled(device, integers)));
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Product {
    dtype: Dtype,
    size: usize,
    activation: Activation,
    biased: bool,
}

impl Product {
    fn bias(self, device: &Device) -> Result<(Vec<f32>, Option<Tensor>)> {
        // Multiples of 1/128: they are whole in every format, and so are the sums in f32.
        let mut numbers = Numbers::new(9);
        let values: Vec<f32> = (0..self.size).map(|_| (numbers.next() * 128.0).round() / 128.0).collect();
        let tensor = Tensor::from_f32(device, &[self.size], self.dtype, &values)?;
        Ok(if self.biased { (values, Some(tensor)) } else { (vec![0.0; self.size], None) })
    }

    /// Multiples of 1/65536 up to 1.25, where GELU is steepest: a sum that is not rounded before it shows.
    fn values(self) -> Vec<f32> {
        let mut numbers = Numbers::new(self.size as u64);
        (0..ROWS * self.size).map(|_| (numbers.next() * 81_920.0).round() / 65_536.0).collect()
    }

    fn compare(self, found: &Tensor, values: &[f32], bias: &[f32]) -> Result<Outcome> {
        let sums = values.iter().zip(bias.iter().cycle()).map(|(x, b)| rounded(x + b, self.dtype));
        let found = found.to_f32_vec()?;
        if self.activation == Activation::Identity {
            return Ok(Outcome::exact(&found, &sums.collect::<Vec<_>>()));
        }
        let expected: Vec<f64> = sums.map(|x| gelu_tanh_f64(f64::from(x))).collect();
        Ok(Outcome::relative(&found, &expected, half_unit(self.dtype) + 4.0 * half_unit(Dtype::F32)))
    }

    fn in_f32(self, device: &Device) -> Result<Outcome> {
        let ((bias, bias_tensor), values) = (self.bias(device)?, self.values());
        let product = Tensor::from_slice(device, &[ROWS, self.size], &values)?;
        let found = bias_activation(&product, bias_tensor.as_ref(), self.activation, self.dtype)?;
        self.compare(&found, &values, &bias)
    }

    fn in_place(self, device: &Device) -> Result<Outcome> {
        let (bias, bias_tensor) = self.bias(device)?;
        let values: Vec<f32> = self.values().iter().map(|x| rounded(*x, self.dtype)).collect();
        let product = Tensor::from_f32(device, &[ROWS, self.size], self.dtype, &values)?;
        bias_activation_in_place(&product, bias_tensor.as_ref(), self.activation)?;
        self.compare(&product, &values, &bias)
    }

    /// With powers of two for scales.
    fn scaled(self, device: &Device, integers: bool) -> Result<Outcome> {
        let (bias, bias_tensor) = self.bias(device)?;
        let values: Vec<f32> = self.values().iter().map(|x| x * 65_536.0).collect();
        let dims = [ROWS, self.size];
        let product = if integers {
            Tensor::from_slice(device, &dims, &values.iter().map(|x| *x as i32).collect::<Vec<_>>())?
        } else {
            Tensor::from_slice(device, &dims, &values)?
        };
        let row_scales: Vec<f32> = (0..ROWS).map(|row| 2f32.powi(-8 - row as i32)).collect();
        let column_scales: Vec<f32> =
            (0..self.size).map(|column| 2f32.powi(-6 - (column % 3) as i32)).collect();
        let rows = Tensor::from_slice(device, &[ROWS], &row_scales)?;
        let columns = Tensor::from_slice(device, &[self.size], &column_scales)?;
        let scales = Scales { rows: &rows, columns: &columns };
        let found = scale_rows_columns(&product, scales, bias_tensor.as_ref(), self.activation, self.dtype)?;
        let scaled = |(i, x): (usize, &f32)| x * row_scales[i / self.size] * column_scales[i % self.size];
        let scaled: Vec<f32> = values.iter().enumerate().map(scaled).collect();
        self.compare(&found, &scaled, &bias)
    }
}
