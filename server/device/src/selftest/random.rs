//! The moments of what `ops::random` draws, and that it is a function of the seed.

use super::{Case, FLOATS, Outcome};
use crate::ops::random::normal;

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        cases.push(Case::new(format!("random normal {dtype} 4099"), move |device| {
            let values = normal(device, &[4099], dtype, 0.5, 7)?.to_f32_vec()?;
            let n = values.len() as f64;
            let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let std = (values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n).sqrt();
            // Of 4,099 draws the mean is within 4 standard errors of 0, and the deviation of 0.5.
            Ok(Outcome { error: mean.abs().max((std - 0.5).abs()), bound: 4.0 * 0.5 / n.sqrt() })
        }));
    }
    cases.push(Case::new("random normal by seed", |device| {
        let draw = |seed| normal(device, &[100], crate::Dtype::F32, 1.0, seed)?.to_vec::<f32>();
        let (first, again, other) = (draw(1)?, draw(1)?, draw(2)?);
        let equal = first.iter().zip(&other).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
        Ok(Outcome { error: Outcome::exact(&first, &again).error + equal as f64, bound: 0.0 })
    }));
}
