//! What a user's kernel reads and what it must write: inputs as bytes, the expected results in float64.

use crate::verify::{Comparison, in_chunks, rms};
use ridgepoint_core::kernel::{Argument, Data, Expected, Expression, Npy, Operand, Role, Spec};
use ridgepoint_core::{Dtype, data};
use ridgepoint_device::{DeviceError, Result};
use std::collections::BTreeMap;

/// A reference in Rust.
pub(super) type Function = dyn Fn(&Arrays) -> Vec<Vec<f64>> + Send + Sync;

/// The arrays that a kernel reads, in float64, by name.
pub struct Arrays(BTreeMap<String, Vec<f64>>);

impl Arrays {
    /// The array of this name; empty where there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &[f64] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// What each array holds before an execution, in the order of the arguments; empty for a result.
pub(super) fn inputs(spec: &Spec, files: &BTreeMap<String, Npy>, seed: u64) -> Result<Vec<Vec<u8>>> {
    spec.operands()
        .map(|operand| {
            let of = |own| data::operand_seed(seed, own);
            Ok(match &operand.data {
                _ if operand.role == Role::Out => Vec::new(),
                Data::Normal(own) => {
                    let own = of(*own);
                    // As the kernels that make the suites' inputs do.
                    let scale = if operand.dtype == Dtype::I8 { data::I8_SCALE } else { 1.0 };
                    encode(operand, &|i| f64::from(data::normal(own, i) * scale))
                }
                Data::Uniform(own) => {
                    let own = of(*own);
                    encode(operand, &|i| f64::from(data::uniform(own, i)))
                }
                Data::Constant(value) => encode(operand, &|_| *value),
                Data::File(name) => file(files, name, operand)?.encoded(operand.dtype),
            })
        })
        .collect()
}

fn encode(operand: &Operand, value: &(dyn Fn(u64) -> f64 + Sync)) -> Vec<u8> {
    let parts = in_chunks(operand.elements, |range| {
        let width = operand.dtype.element_bytes().unwrap_or(1);
        let mut bytes = vec![0; (range.end - range.start) as usize * width];
        range.zip(bytes.chunks_exact_mut(width)).for_each(|(i, bytes)| operand.dtype.write(value(i), bytes));
        bytes
    });
    parts.concat()
}

fn file<'f>(files: &'f BTreeMap<String, Npy>, name: &str, operand: &Operand) -> Result<&'f Npy> {
    let npy = files.get(name).ok_or_else(|| DeviceError::invalid(format!("{name} was not given")))?;
    if npy.elements() as u64 != operand.elements {
        let (has, wanted) = (npy.elements(), operand.elements);
        return Err(DeviceError::invalid(format!("{name} has {has} elements and {} {wanted}", operand.name)));
    }
    Ok(npy)
}

/// The values of an array's bytes.
fn decoded(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    let width = dtype.element_bytes().unwrap_or(1);
    let parts = in_chunks((bytes.len() / width) as u64, |range| {
        let bytes = &bytes[range.start as usize * width..range.end as usize * width];
        bytes.chunks_exact(width).map(|b| dtype.read(b)).collect::<Vec<f64>>()
    });
    parts.concat()
}

/// What each result must be.
pub(super) struct Reference {
    /// In the order of the arguments.
    results: Vec<Wanted>,
    tolerance: f64,
}

struct Wanted {
    dtype: Dtype,
    values: Vec<f64>,
    rms: f64,
}

impl Reference {
    pub(super) fn new(
        spec: &Spec,
        files: &BTreeMap<String, Npy>,
        function: Option<&Function>,
        inputs: &[Vec<u8>],
    ) -> Result<Self> {
        let results: Vec<&Operand> = spec.operands().filter(|o| o.role != Role::In).collect();
        if results.is_empty() {
            return Err(DeviceError::invalid(format!("{} writes nothing that could be verified", spec.name)));
        }
        let read = spec.operands().zip(inputs).filter(|(o, _)| o.role != Role::Out);
        let arrays: Vec<(&Operand, Vec<f64>)> = read.map(|(o, bytes)| (o, decoded(o.dtype, bytes))).collect();
        let values: Vec<Vec<f64>> = match function {
            Some(function) => {
                let named = arrays.iter().map(|(o, values)| (o.name.clone(), values.clone())).collect();
                function(&Arrays(named))
            }
            None => results.iter().map(|result| expected(spec, files, result, &arrays)).collect::<Result<_>>()?,
        };
        let right = values.len() == results.len() && results.iter().zip(&values).all(|(o, v)| o.elements == v.len() as u64);
        if !right {
            let lengths: Vec<usize> = values.iter().map(Vec::len).collect();
            let wanted: Vec<u64> = results.iter().map(|o| o.elements).collect();
            return Err(DeviceError::invalid(format!("the reference gives arrays of {lengths:?}; results are of {wanted:?}")));
        }
        let coarsest = results.iter().map(|o| o.dtype.unit_roundoff()).fold(0.0, f64::max);
        let wanted = |(operand, values): (&&Operand, Vec<f64>)| Wanted { dtype: operand.dtype, rms: rms(&values), values };
        Ok(Self {
            tolerance: spec.tolerance.unwrap_or(Spec::DEFAULT_ROUNDINGS * coarsest),
            results: results.iter().zip(values).map(wanted).collect(),
        })
    }

    /// An empty comparison by the tolerance.
    pub(super) fn comparison(&self) -> Comparison {
        Comparison::new(self.tolerance)
    }

    /// Compares elements of the `index`-th result from `first` on.
    pub(super) fn compare(&self, index: usize, first: usize, bytes: &[u8], into: &mut Comparison) {
        let wanted = &self.results[index];
        let width = wanted.dtype.element_bytes().unwrap_or(1);
        let parts = in_chunks((bytes.len() / width) as u64, |range| {
            let mut part = self.comparison();
            for i in range {
                let at = i as usize;
                let want = wanted.values[first + at];
                let got = wanted.dtype.read(&bytes[at * width..(at + 1) * width]);
                part.push(got, want, want.abs().max(wanted.rms));
            }
            part
        });
        parts.into_iter().for_each(|part| into.merge(part));
    }
}

/// A result by its formula or file.
fn expected(spec: &Spec, files: &BTreeMap<String, Npy>, result: &Operand, arrays: &[(&Operand, Vec<f64>)]) -> Result<Vec<f64>> {
    match spec.references.iter().find(|(name, _)| *name == result.name) {
        None => Err(DeviceError::invalid(format!("{}: what '{}' must be is not said", spec.name, result.name))),
        Some((_, Expected::File(name))) => Ok(file(files, name, result)?.values().collect()),
        Some((_, Expected::Formula(formula))) => Ok(evaluate(spec, formula, result.elements, arrays)),
    }
}

/// A formula for each element, in the order of [`Spec::formula_names`].
fn evaluate(spec: &Spec, formula: &Expression, elements: u64, arrays: &[(&Operand, Vec<f64>)]) -> Vec<f64> {
    let scalars = spec.arguments.iter().filter_map(|argument| match argument {
        Argument::Scalar { value, .. } => Some(value.value()),
        Argument::Buffer(_) => None,
    });
    let fixed: Vec<f64> = scalars.chain(spec.sizes.iter().map(|(_, value)| *value as f64)).collect();
    let parts = in_chunks(elements, |range| {
        let mut values = vec![0.0; arrays.len()];
        values.extend(&fixed);
        values.push(0.0);
        let mut stack = Vec::new();
        let mut one = |i: u64| {
            for (value, (_, array)) in values.iter_mut().zip(arrays) {
                *value = array.get(i as usize).copied().unwrap_or(f64::NAN);
            }
            if let Some(index) = values.last_mut() {
                *index = i as f64;
            }
            formula.value(&values, &mut stack)
        };
        range.map(&mut one).collect::<Vec<f64>>()
    });
    parts.concat()
}
