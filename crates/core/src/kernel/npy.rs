//! Arrays as numpy saves them (`numpy.save`), read with limits: versions 1 to 3, little-endian numbers in C order.
//! The format: numpy's documentation, `numpy.lib.format`.

use crate::Dtype;

/// An array in a file's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Npy {
    /// Type of its elements.
    pub dtype: NpyType,
    /// The elements, as they lie in the file.
    pub data: Vec<u8>,
}

/// A type of numpy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NpyType {
    /// One that is a dtype of ours.
    Dtype(Dtype),
    /// Unsigned or wide integers, by their bytes.
    Unsigned(usize),
    /// `<i8`.
    I64,
    /// `<i2`.
    I16,
}

/// Longest header accepted, bytes.
const MAX_HEADER: usize = 64 << 10;

const TYPES: &[(&str, NpyType)] = &[
    ("<f8", NpyType::Dtype(Dtype::F64)),
    ("<f4", NpyType::Dtype(Dtype::F32)),
    ("<f2", NpyType::Dtype(Dtype::F16)),
    ("|i1", NpyType::Dtype(Dtype::I8)),
    ("<i4", NpyType::Dtype(Dtype::I32)),
    ("<i8", NpyType::I64),
    ("<i2", NpyType::I16),
    ("|u1", NpyType::Unsigned(1)),
    ("<u2", NpyType::Unsigned(2)),
    ("<u4", NpyType::Unsigned(4)),
];

impl Npy {
    /// Reads a file.
    ///
    /// # Errors
    /// One sentence.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("this is no .npy file (numpy.save writes one)")?;
        let (length, start) = match rest {
            [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 4),
            [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 6),
            _ => return Err("a .npy file of a version that is not known, or cut off".into()),
        };
        let header = Some(length).filter(|n| *n <= MAX_HEADER).and_then(|n| rest.get(start..start + n));
        let header = header.and_then(|h| std::str::from_utf8(h).ok()).ok_or("a .npy file whose header cannot be read")?;
        let data = &rest[start + length..];
        // A literal of Python with three keys that numpy writes in one way.
        let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start());
        let descr = after("'descr':").and_then(|r| r.strip_prefix('\'')).and_then(|r| r.split('\'').next());
        let descr = descr.ok_or("a .npy file of records, or without a type: save one plain array")?;
        let dtype = TYPES.iter().find(|(name, _)| *name == descr).map(|(_, dtype)| *dtype).ok_or_else(|| {
            let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
            let shown: String = descr.chars().take(32).flat_map(char::escape_debug).collect();
            format!("a .npy file of type '{shown}'; known: {}", names.join(", "))
        })?;
        if !after("'fortran_order':").is_some_and(|r| r.starts_with("False")) {
            return Err("a .npy file in Fortran order: save numpy.ascontiguousarray(x)".into());
        }
        let shape = after("'shape':").and_then(|r| r.strip_prefix('(')).and_then(|r| r.split(')').next());
        let shape = shape.ok_or("a .npy file without a shape")?;
        let mut elements = 1usize;
        for extent in shape.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let extent = extent.parse::<usize>().map_err(|_| "a .npy file whose shape cannot be read")?;
            elements = elements.checked_mul(extent).ok_or("a .npy file larger than any memory")?;
        }
        let wanted = elements.checked_mul(dtype.bytes()).ok_or("a .npy file larger than any memory")?;
        if data.len() != wanted {
            return Err(format!("a .npy file of {} bytes where its shape ({shape}) needs {wanted}: it is cut off", data.len()));
        }
        Ok(Self { dtype, data: data.to_vec() })
    }

    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.data.len() / self.dtype.bytes()
    }

    /// The elements as numbers.
    pub fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.data.chunks_exact(self.dtype.bytes()).map(|bytes| match (self.dtype, bytes) {
            (NpyType::Dtype(dtype), bytes) => dtype.read(bytes),
            (NpyType::Unsigned(1), &[a]) => f64::from(a),
            (NpyType::Unsigned(2), &[a, b]) => f64::from(u16::from_le_bytes([a, b])),
            (NpyType::Unsigned(4), &[a, b, c, d]) => f64::from(u32::from_le_bytes([a, b, c, d])),
            (NpyType::I16, &[a, b]) => f64::from(i16::from_le_bytes([a, b])),
            (NpyType::I64, bytes) => bytes.try_into().map_or(f64::NAN, |b| i64::from_le_bytes(b) as f64),
            _ => f64::NAN,
        })
    }

    /// The elements as `dtype` lies in memory: as they are where the file has that type, or bits for a type that numpy lacks (bf16
    /// as u2, FP8 as u1), else rounded.
    #[must_use]
    pub fn encoded(&self, dtype: Dtype) -> Vec<u8> {
        let bits = matches!(self.dtype, NpyType::Unsigned(n) if Some(n) == dtype.element_bytes() && !matches!(dtype, Dtype::I8 | Dtype::I32));
        if self.dtype == NpyType::Dtype(dtype) || bits {
            return self.data.clone();
        }
        let width = dtype.element_bytes().unwrap_or(1);
        let mut encoded = vec![0; self.elements() * width];
        self.values().zip(encoded.chunks_exact_mut(width)).for_each(|(value, bytes)| dtype.write(value, bytes));
        encoded
    }
}

impl NpyType {
    const fn bytes(self) -> usize {
        match self {
            Self::Dtype(dtype) => dtype.bits() as usize / 8,
            Self::Unsigned(bytes) => bytes,
            Self::I64 => 8,
            Self::I16 => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn what_numpy_writes_is_read() {
        // As numpy 2 wrote numpy.array([[1.5, -2]], 'f4').
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }                                                        \n";
        let data: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let npy = Npy::parse(&file(header, &data)).unwrap();
        assert_eq!((npy.elements(), npy.values().collect::<Vec<_>>()), (2, vec![1.5, -2.0]));
        assert_eq!(npy.encoded(Dtype::F32), data);
        assert_eq!(npy.encoded(Dtype::Bf16), [0xc0, 0x3f, 0x00, 0xc0]);
        let bits = Npy::parse(&file("{'descr': '<u2', 'fortran_order': False, 'shape': (1,), }", &[0xc0, 0x3f])).unwrap();
        assert_eq!(bits.encoded(Dtype::Bf16), [0xc0, 0x3f]);
    }

    #[test]
    fn what_is_no_plain_array_is_one_sentence() {
        let header =
            |descr: &str, order: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}");
        for (bytes, words) in [
            (b"PK".to_vec(), "no .npy file"),
            (b"\x93NUMPY\x09\x00".to_vec(), "version"),
            (b"\x93NUMPY\x01\x00\xff\xff".to_vec(), "header"),
            (file(&header("'<c8'", "False", "(1,)"), &[0; 8]), "type '<c8'"),
            (file(&header("[('a', '<f4')]", "False", "(1,)"), &[0; 4]), "records"),
            (file(&header("'<f4'", "True", "(1,)"), &[0; 4]), "Fortran"),
            (file(&header("'<f4'", "False", "(2,)"), &[0; 4]), "cut off"),
            (file(&header("'<f4'", "False", "(99999999999, 99999999999)"), &[0; 4]), "larger than any memory"),
        ] {
            let error = Npy::parse(&bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), header in ".{0,80}") {
            let _ = Npy::parse(&bytes);
            let _ = Npy::parse(&file(&header, &bytes));
        }
    }
}
