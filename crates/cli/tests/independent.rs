//! What others say of our results: numpy computes the same GEMMs and attentions in float64, and jsonschema validates our records.
//! Both come from PyPI; scripts/test installs them into target/python.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{python, scratch};
use ridgepoint_core::{Dtype, data};
use ridgepoint_device::{
    Arg, AttentionOperands, AttentionProblem, Buffer, Device, GemmOperands, GemmProblem, Geometry, Program, open,
};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn passes(output: &Output) {
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn jsonschema_accepts_every_line_of_a_run() {
    let Some(python) = python("jsonschema") else { return };
    let folder = scratch("schema");
    let out = folder.join("run");
    let cases =
        ["memory/latency/16KiB", "gemm/m64n48k80/f32", "attention/prefill/b1hq2hkv1sq9sk9d16/f32/causal", "gemm/m64n48k80/f64"];
    let run = Command::new(env!("CARGO_BIN_EXE_ridgepoint"))
        .arg("run")
        .args(cases)
        .args(["--device", "cpu", "--quick", "--out"])
        .arg(&out)
        .output();
    passes(&run.unwrap());
    let script = "
import json, sys, jsonschema
schema = json.load(open(sys.argv[1]))
validator = jsonschema.validators.validator_for(schema)(schema)
lines = [json.loads(l) for l in open(sys.argv[2])]
for line in lines: validator.validate(line)
assert {l.get('outcome') for l in lines} >= {'measured', 'skipped'}, lines
broken = dict(lines[1]); broken.pop('case')
assert not validator.is_valid(broken), 'the schema accepts a record without a case'
";
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/record.schema.json");
    passes(&Command::new(python).args(["-c", script]).arg(schema).arg(out.join("raw.jsonl")).output().unwrap());
    std::fs::remove_dir_all(folder).unwrap();
}

/// A device buffer of `elements` from stream `seed`, and the same bytes as a file.
fn operand(device: &dyn Device, dtype: Dtype, seed: u64, elements: usize, file: &Path) -> Buffer {
    let buffer = device.alloc(dtype.bytes(elements as u64).0 as usize).unwrap();
    let init = device.compile(&Program { name: "common/init", ..Program::default() }, &format!("rp_init_{dtype}")).unwrap();
    let args = [Arg::Buffer(&buffer, 0), Arg::U64(data::operand_seed(seed, 1)), Arg::U64(elements as u64)];
    device.launch(&init, Geometry::linear(1, 1), &args).unwrap();
    save(device, &buffer, file);
    buffer
}

fn save(device: &dyn Device, buffer: &Buffer, file: &Path) {
    let mut bytes = vec![0; buffer.len()];
    device.download(buffer, 0, &mut bytes).unwrap();
    std::fs::write(file, bytes).unwrap();
}

/// Reads raw arrays of f32, bf16, f16 and int8 as float64.
const READ: &str = "
import sys, numpy as np
folder = sys.argv[1]
def read(name, dtype, shape):
    raw = open(f'{folder}/{name}', 'rb').read()
    if dtype == 'bf16':
        x = (np.frombuffer(raw, '<u2').astype('<u4') << 16).view('<f4')
    else:
        x = np.frombuffer(raw, {'f32': '<f4', 'f16': '<f2', 'i8': 'i1', 'i32': '<i4'}[dtype])
    return x.astype(np.float64).reshape(shape)
";

#[test]
fn numpy_agrees_with_every_gemm_of_the_cpu() {
    let Some(python) = python("numpy") else { return };
    let device = open("cpu:0").unwrap();
    let folder = scratch("gemm");
    for blas in device.blas() {
        for (input, output, limit) in [
            (Dtype::F32, Dtype::F32, 1e-5),
            (Dtype::F16, Dtype::F16, 4e-3),
            (Dtype::Bf16, Dtype::Bf16, 3e-2),
            (Dtype::I8, Dtype::I32, 0.0),
        ] {
            for (m, n, k) in [(64, 48, 80), (129, 131, 517), (1, 300, 77)] {
                let problem = GemmProblem::new(m, n, k, input, output);
                let Ok(plan) = blas.plan(&problem) else { continue };
                let (a, b) = (
                    operand(device.as_ref(), input, 1, m * k, &folder.join("a")),
                    operand(device.as_ref(), input, 2, n * k, &folder.join("b")),
                );
                let c = device.alloc(output.bytes((m * n) as u64).0 as usize).unwrap();
                device.fill(&c, 0xff).unwrap();
                plan.enqueue(&GemmOperands::new(&a, &b, &c)).unwrap();
                save(device.as_ref(), &c, &folder.join("c"));
                let script = format!(
                    "{READ}
a, b, c = read('a', '{input}', ({m}, {k})), read('b', '{input}', ({n}, {k})), read('c', '{output}', ({m}, {n}))
error = np.abs(c - a @ b.T).max() / np.sqrt({k})
assert a.std() > 0.5 and error <= {limit}, ('{} {input}', a.std(), error)",
                    blas.provider()
                );
                passes(&Command::new(&python).args(["-c", &script]).arg(&folder).output().unwrap());
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn numpy_agrees_with_every_attention_of_the_cpu() {
    let Some(python) = python("numpy") else { return };
    let device = open("cpu:0").unwrap();
    let folder = scratch("attention");
    // (batch, hq, hkv, sq, sk, dqk, dv, causal): full and causal, lengths that are no tile, groups, one query, fully masked rows,
    // MLA's two dimensions; the absorbed form last.
    let shapes = [
        (2, 4, 4, 64, 64, 64, 64, false),
        (1, 4, 2, 77, 129, 128, 128, true),
        (1, 8, 2, 1, 513, 64, 64, false),
        (1, 2, 1, 9, 5, 32, 32, true),
        (1, 2, 2, 33, 33, 192, 128, true),
        (2, 16, 1, 1, 130, 576, 512, false),
    ];
    for attention in device.attention() {
        for (dtype, limit) in [(Dtype::F32, 2e-5), (Dtype::Bf16, 1e-2)] {
            for (batch, hq, hkv, sq, sk, dqk, dv, causal) in shapes {
                let shared_kv = dqk == 576;
                let problem =
                    AttentionProblem { batch, hq, hkv, sq, sk, dqk, dv, causal, shared_kv, ..AttentionProblem::default() };
                let problem = problem.of(dtype);
                let plan = attention.plan(&problem).unwrap();
                let make = |name: &str, seed, n| operand(device.as_ref(), dtype, seed, n, &folder.join(name));
                let (q, k, v) = (
                    make("q", 1, batch * hq * sq * dqk),
                    make("k", 2, batch * hkv * sk * dqk),
                    make("v", 3, batch * hkv * sk * dv),
                );
                let o = device.alloc(dtype.bytes((batch * hq * sq * dv) as u64).0 as usize).unwrap();
                device.fill(&o, 0xff).unwrap();
                plan.enqueue(&AttentionOperands::new(&q, &k, &v, &o)).unwrap();
                save(device.as_ref(), &o, &folder.join("o"));
                let (python_causal, python_shared) =
                    (if causal { "True" } else { "False" }, if shared_kv { "True" } else { "False" });
                let script = format!(
                    "{READ}
q = read('q', '{dtype}', ({batch}, {hq}, {sq}, {dqk}))
k = read('k', '{dtype}', ({batch}, {hkv}, {sk}, {dqk}))
v = k[..., :{dv}] if {python_shared} else read('v', '{dtype}', ({batch}, {hkv}, {sk}, {dv}))
o = read('o', '{dtype}', ({batch}, {hq}, {sq}, {dv}))
k, v = (np.repeat(x, {hq} // {hkv}, axis=1) for x in (k, v))
s = q @ k.transpose(0, 1, 3, 2) / np.sqrt({dqk})
seen = np.arange({sk})[None, :] <= np.arange({sq})[:, None] + {sk} - {sq} if {python_causal} else np.ones(({sq}, {sk}), bool)
s = np.where(seen, s, -np.inf)
p = np.exp(s - np.where(np.isfinite(s.max(-1, keepdims=True)), s.max(-1, keepdims=True), 0))
p = p / np.maximum(p.sum(-1, keepdims=True), 1e-300)
want = p @ v
error = np.linalg.norm(o - want, axis=-1).max() / np.linalg.norm(want, axis=-1).mean()
assert np.isfinite(o).all() and error <= {limit}, ('{} {dtype}', {batch}, {sq}, {sk}, {dqk}, error)",
                    attention.provider()
                );
                passes(&Command::new(&python).args(["-c", &script]).arg(&folder).output().unwrap());
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn kubernetes_own_schemas_accept_the_manifests() {
    let Some(python) = python("kubernetes_validate, jsonschema") else { return };
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/k8s");
    let check = |files: &[PathBuf]| Command::new(&python).arg(scripts.join("check.py")).args(files).output().unwrap();
    let manifests = ["indexed-job.yaml", "mpijob.yaml"].map(|name| scripts.join(name));
    let output = check(&manifests);
    passes(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches(": valid").count(), 3);
    // And they would notice: a field that there is not, a value of another kind, a wrong pod in a job.
    let folder = scratch("manifests");
    for (manifest, from, to) in
        [(0, "completions:", "completion:"), (1, "slotsPerWorker: 1", "slotsPerWorker: one"), (1, "image:", "picture:")]
    {
        let text = std::fs::read_to_string(&manifests[manifest]).unwrap();
        assert!(text.contains(from));
        let changed = folder.join("changed.yaml");
        std::fs::write(&changed, text.replace(from, to)).unwrap();
        assert!(!check(&[changed]).status.success(), "{to} was accepted");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
