//! What others say of our results: numpy computes the same GEMMs and attentions in float64, and jsonschema validates our records.
//! Both come from PyPI; scripts/test installs them into target/python.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{python, scratch};
use ridgepoint_core::{Dtype, data};
use ridgepoint_device::{
    Arg, AttentionKernels, AttentionOperands, AttentionProblem, Buffer, Device, GemmOperands, GemmProblem, Geometry, Paged,
    Program, open,
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
        ["memory/latency/16KiB", "gemm/m64n48k80/f32", "attention/prefill/b1hq2hkv1sq9sk9d16/f32/causal", "gemm/m64n48k80/tf32"];
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

/// Reads raw arrays of f64, f32, bf16, f16, e4m3 and int8 as float64.
const READ: &str = "
import sys, numpy as np
folder = sys.argv[1]
def read(name, dtype, shape):
    raw = open(f'{folder}/{name}', 'rb').read()
    if dtype == 'bf16':
        x = (np.frombuffer(raw, '<u2').astype('<u4') << 16).view('<f4')
    elif dtype == 'e4m3':
        code = np.arange(256)
        exponent, mantissa = code >> 3 & 15, code & 7
        value = np.where(exponent, 8 + mantissa, mantissa) * 2.0 ** (np.maximum(exponent, 1) - 10)
        x = np.where(code & 128, -value, value)[np.frombuffer(raw, 'u1')]
    else:
        x = np.frombuffer(raw, {'f64': '<f8', 'f32': '<f4', 'f16': '<f2', 'i8': 'i1', 'i32': '<i4'}[dtype])
    return x.astype(np.float64).reshape(shape)
";

#[test]
fn numpy_agrees_with_every_gemm_of_the_cpu() {
    let Some(python) = python("numpy") else { return };
    let device = open("cpu:0").unwrap();
    let folder = scratch("gemm");
    for blas in device.blas() {
        for (input, output, limit) in [
            (Dtype::F64, Dtype::F64, 1e-13),
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
    // Full and causal, lengths that are no tile, groups, one query, fully masked rows, MLA's two dimensions and its absorbed form;
    // then windows, pages, sinks and lengths of each sequence.
    let plain = AttentionProblem::default();
    let of = |batch, (hq, hkv), (sq, sk), (dqk, dv)| AttentionProblem { batch, hq, hkv, sq, sk, dqk, dv, ..plain };
    let causal = |p| AttentionProblem { causal: true, ..p };
    let paged = |tokens: usize, p: AttentionProblem| AttentionProblem {
        paged: Some(Paged { tokens, pool: p.batch * p.sk.div_ceil(tokens) + 3 }),
        ..p
    };
    let window = |w, p| AttentionProblem { window: Some(w), ..causal(p) };
    let ragged = |p| AttentionProblem { ragged: true, ..p };
    let sinks = |p| AttentionProblem { sinks: true, ..p };
    let latent = AttentionProblem { shared_kv: true, ..of(3, (16, 1), (1, 130), (576, 512)) };
    let problems = [
        of(2, (4, 4), (64, 64), (64, 64)),
        causal(of(1, (4, 2), (77, 129), (128, 128))),
        of(1, (8, 2), (1, 513), (64, 64)),
        causal(of(1, (2, 1), (9, 5), (32, 32))),
        causal(of(1, (2, 2), (33, 33), (192, 128))),
        latent,
        window(40, of(1, (4, 2), (77, 129), (96, 96))),
        paged(16, of(2, (8, 2), (1, 513), (64, 64))),
        sinks(causal(of(2, (4, 2), (50, 70), (64, 64)))),
        ragged(sinks(paged(64, window(33, of(5, (4, 2), (20, 150), (256, 256)))))),
        ragged(paged(16, latent)),
    ];
    let types = [
        (Dtype::F32, Dtype::F32, Dtype::F32, 2e-5),
        (Dtype::Bf16, Dtype::Bf16, Dtype::Bf16, 1e-2),
        (Dtype::Bf16, Dtype::E4m3, Dtype::Bf16, 1e-2),
        (Dtype::E4m3, Dtype::E4m3, Dtype::Bf16, 1e-2),
    ];
    for attention in device.attention() {
        for (n, problem) in problems.into_iter().enumerate() {
            for (dtype, kv, output, limit) in types {
                // FP8 on a share of the problems: each is a process.
                if kv == Dtype::E4m3 && n % 2 == 0 {
                    continue;
                }
                let p = AttentionProblem { dtype, kv, output, ..problem };
                numpy_agrees(Path::new(&python), device.as_ref(), attention, &p, limit, &folder);
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Runs a problem and has numpy compute the same from the operands' bytes: pages are put together by the table, and each
/// sequence is an attention of its own.
fn numpy_agrees(
    python: &Path,
    device: &dyn Device,
    attention: &dyn AttentionKernels,
    p: &AttentionProblem,
    limit: f64,
    folder: &Path,
) {
    let plan = attention.plan(p).unwrap();
    let rows = p.paged.map_or(p.batch * p.hkv * p.sk, |pages| pages.pool * p.hkv * pages.tokens);
    let make = |name: &str, dtype, seed, n| operand(device, dtype, seed, n, &folder.join(name));
    let q = make("q", p.dtype, 1, p.batch * p.hq * p.sq * p.dqk);
    let (k, v) = (make("k", p.kv, 2, rows * p.dqk), make("v", p.kv, 3, rows * p.dv));
    let numbers = |name: &str, bytes: Vec<u8>| {
        let buffer = device.alloc(bytes.len()).unwrap();
        device.upload(&buffer, 0, &bytes).unwrap();
        save(device, &buffer, &folder.join(name));
        buffer
    };
    let lengths = (0..p.batch).map(|b| if p.ragged { [p.sk, 0, 1, p.sk / 2][b % 4] } else { p.sk } as i32);
    let lengths = numbers("lengths", lengths.flat_map(i32::to_le_bytes).collect());
    let width = p.paged.map_or(1, |pages| p.sk.div_ceil(pages.tokens));
    let pool = p.paged.map_or(1, |pages| pages.pool);
    let table = (0..p.batch * width).map(|n| data::permuted(9, n as u64 % pool as u64, pool as u64) as i32);
    let table = numbers("table", table.flat_map(i32::to_le_bytes).collect());
    let sinks = numbers("sinks", (0..p.hq).flat_map(|h| (2.0 * data::normal(8, h as u64)).to_le_bytes()).collect());
    let of = |dtype: Dtype, scale: f32| if dtype == Dtype::E4m3 { scale } else { 1.0f32 };
    let scales = [of(p.dtype, 0.5), of(p.kv, 1.5), of(p.kv, if p.shared_kv { 1.5 } else { 1.25 })];
    let scales = numbers("scales", scales.into_iter().flat_map(f32::to_le_bytes).collect());
    let o = device.alloc(p.output.bytes((p.batch * p.hq * p.sq * p.dv) as u64).0 as usize).unwrap();
    device.fill(&o, 0xff).unwrap();
    let operands = AttentionOperands {
        lengths: Some(&lengths),
        pages: Some(&table),
        sinks: Some(&sinks),
        scales: Some(&scales),
        ..AttentionOperands::new(&q, &k, &v, &o)
    };
    plan.enqueue(&operands).unwrap();
    save(device, &o, &folder.join("o"));
    let AttentionProblem { batch, hq, hkv, sq, sk, dqk, dv, dtype, kv, output, .. } = *p;
    let flag = |asked: bool| if asked { "True" } else { "False" };
    let (causal, shared, has_sinks) = (flag(p.causal), flag(p.shared_kv), flag(p.sinks));
    let (window, page) = (p.window.unwrap_or(sk + sq), p.paged.map_or(0, |pages| pages.tokens));
    let script = format!(
        "{READ}
q = read('q', '{dtype}', ({batch}, {hq}, {sq}, {dqk}))
lengths, table = read('lengths', 'i32', {batch}).astype(int), read('table', 'i32', ({batch}, {width})).astype(int)
sinks, scales = read('sinks', 'f32', {hq}), read('scales', 'f32', 3)
def keys(name, d):
    if not {page}: return read(name, '{kv}', ({batch}, {hkv}, {sk}, d))
    pool = read(name, '{kv}', ({pool}, {hkv}, {page} or 1, d))
    return np.stack([np.concatenate(list(pool[row]), axis=1)[:, :{sk}] for row in table])
k = keys('k', {dqk})
v = k[..., :{dv}] if {shared} else keys('v', {dv})
o = read('o', '{output}', ({batch}, {hq}, {sq}, {dv}))
want = np.zeros_like(o)
for b, n in enumerate(lengths):
    group = {hq} // {hkv}
    kb, vb = (np.repeat(x[b, :, :n], group, axis=0) for x in (k, v))
    s = scales[0] * scales[1] * (q[b] @ kb.transpose(0, 2, 1)) / np.sqrt(192 if {shared} else {dqk})
    at, key = np.arange({sq})[:, None] + n - {sq}, np.arange(n)[None, :]
    seen = (key <= at) & (key > at - {window}) if {causal} else np.ones(({sq}, n), bool)
    s = np.where(seen, s, -np.inf)
    if {has_sinks}: s = np.concatenate([s, np.broadcast_to(sinks[:, None, None], ({hq}, {sq}, 1))], axis=2)
    s = np.concatenate([s, np.full(({hq}, {sq}, 1), -1e300)], axis=2)
    e = np.exp(s - s.max(-1, keepdims=True))
    p = np.where(seen.any(-1)[None, :, None], e / e.sum(-1, keepdims=True), 0)[..., :n]
    want[b] = scales[2] * (p @ vb)
error = (np.linalg.norm(o - want, axis=-1) / np.maximum(np.linalg.norm(want, axis=-1), 1e-30)).max()
assert np.isfinite(o).all() and error <= {limit}, ('{}', '{p:?}', error)",
        attention.provider()
    );
    passes(&Command::new(python).args(["-c", &script]).arg(folder).output().unwrap());
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
