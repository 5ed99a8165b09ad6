//! hipDNN without a GPU. A stub library attends from nothing but the descriptors and the pack that it was given, so that a wrong
//! stride, id, bound or address is a wrong result; one without plugins, older ones and broken ones are sentences.

use super::super::PROBE;
use super::super::tests::runtime;
pub(in super::super) use super::numbers::tests::{ATTRIBUTES, OTHERS, RANGES};
use super::refused;
use crate::gpu::dnn::proof::{INCLUDE, Operands, plain, variants};
use crate::machine::{Machine, say_what_is_found};
use crate::{AttentionOperands, AttentionProblem, DeviceError};
use ridgepoint_core::Dtype;

/// A GPU with this hipDNN.
fn machine(name: &str, options: &[&str]) -> Option<Machine> {
    Machine::new(&format!("hipdnn-{name}"), "RIDGEPOINT_ROCM_PATH").with("libamdhip64.so.7", &runtime(), &[])?.with(
        "libhipdnn_backend.so.1",
        include_str!("../stubs/hipdnn.c"),
        &[options, &[INCLUDE]].concat(),
    )
}

/// The variants, with FP8 as gfx942 has it: all of it with a wider output, and in the keys alone.
fn all() -> Vec<AttentionProblem> {
    let wide = AttentionProblem { causal: true, output: Dtype::Bf16, ..plain().of(Dtype::E4m3fnuz) };
    let keys = AttentionProblem { kv: Dtype::E4m3fnuz, sq: 1, ..plain() };
    variants().into_iter().filter(|p| p.dtype.bits() == 16).chain([wide, keys]).collect()
}

#[test]
fn every_variant_is_described_so_that_a_library_computes_it() {
    let Some(machine) = machine("whole", &[]) else { return };
    let log = machine.dir.join("log");
    let text = machine.run_with("hip::hipdnn::tests::child_attends", &[("RP_STUB_LOG", log.to_str().unwrap())]);
    assert!(text.contains("1 passed"), "{text}");
    let log = std::fs::read_to_string(log).unwrap();
    for line in [
        // Q of the plain problem, the operation, its graph in f32 with bf16 around it, and a plan.
        "tensor 1 type 6 [1 4 5 16] [320 80 16 1]",
        "finalized 24: 2600=#1 2601=#2 2602=#3 2603=#4 2634=0.25 2641=0",
        "finalized 10: 601=(24) 604=0 605=0 606=6 600=*",
        "finalized 4: 301=(2)",
        // Causal, and a window of 3: the query's own key and two to its left, from the last corner on.
        "finalized 24: 2600=#1 2601=#2 2602=#3 2603=#4 2634=0.25 2641=0 2636=0 2638=1",
        "finalized 24: 2600=#1 2601=#2 2602=#3 2603=#4 2634=0.25 2641=0 2636=0 2635=2 2638=1",
        // Pages: 8 of 4 keys, a table of 3 a sequence; with lengths and sinks.
        "tensor 2 type 6 [8 2 4 16] [128 64 16 1]",
        "tensor 7 type 4 [2 1 3 1] [3 3 1 1]",
        "2606=#5 2607=#6 2630=1 2612=#7 2613=#8 2637=9 2636=0 2638=1 2615=#9",
        // The latent: V within K, whose rows are 24 long.
        "tensor 3 type 6 [2 1 9 16] [216 216 24 1]",
        // FP8 in Q, K and V, and in K and V alone.
        "2636=0 2638=1 2616=#5 2617=#6 2618=#7",
        "2634=0.25 2641=0 2617=#5 2618=#6",
        "executed engine 0",
        "executed engine 1",
        // Nothing is left behind.
        "destroyed, 0 descriptors left",
    ] {
        assert!(log.lines().any(|l| l == line || (line.starts_with('2') && l.ends_with(line))), "{line}\n{log}");
    }
    assert!(!log.contains("executed engine 2"), "{log}");
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_attends() {
    let device = (PROBE.open)(0).unwrap();
    let library = device.attention()[0];
    let recorded = library.library().unwrap();
    assert_eq!((library.provider(), recorded.name.as_str(), recorded.version.as_str()), ("hipdnn", "hipDNN", "1.3.0.stub"));
    assert!(device.info().libraries.contains(&recorded), "{:?}", device.info().libraries);
    for p in all() {
        let mut plan = library.plan(&p).unwrap_or_else(|error| panic!("{p:?}: {error}"));
        assert_eq!(plan.candidates(), 2);
        assert!(plan.select(2).is_err());
        let operands = Operands::new(device.as_ref(), &p);
        for index in [1, 0] {
            plan.select(index).unwrap();
            device.fill(&operands.o, 0xff).unwrap();
            // Twice: the second time with the pack that is there.
            plan.enqueue(&operands.operands()).unwrap();
            plan.enqueue(&operands.operands()).unwrap();
            operands.compare(device.as_ref(), &p);
        }
        let engine = &plan.config()["engine"];
        assert_eq!(engine, "number 0 of the library's ranking: ENGINE_A (stub_plugin 0.9), workspace 256");
        // A missing or short operand is refused before the library sees it.
        let short = device.alloc(2).unwrap();
        let none = AttentionOperands { lengths: None, pages: None, sinks: None, scales: None, k: &short, ..operands.operands() };
        for operands in [AttentionOperands { q: &short, ..operands.operands() }, none] {
            assert!(matches!(plan.enqueue(&operands), Err(DeviceError::Invalid(_))), "{p:?}");
        }
    }
    let refused = |p: AttentionProblem, words: &str| match library.plan(&p) {
        Err(DeviceError::Unsupported(why)) => assert!(why.contains(words), "{why}"),
        other => panic!("{p:?}: {:?}", other.err()),
    };
    refused(plain().of(Dtype::F64), "hipDNN has no attention in f64");
    let none = "hipDNN 1.3.0.stub has no engine for this attention on gfx942:sramecc+:xnack-; loaded are ENGINE_A, ENGINE_B, ENGINE_C, ENGINE_D";
    refused(plain().of(Dtype::F32), none);
}

#[test]
fn what_a_library_lacks_is_a_sentence() {
    assert_eq!((refused(None), refused(Some("1.9.2"))), (None, None));
    assert!(refused(Some("2.0.0")).is_some() && refused(Some("")).is_some());
    for (name, options, sentence) in [
        (
            "bare",
            &["-DENGINES=0"][..],
            "skipped: hipDNN 1.3.0.stub has no engine for this attention on gfx942:sramecc+:xnack-; it has loaded none: its plugins are \
             looked for in hipdnn_plugins/engines beside it, or where HIPDNN_PLUGIN_DIR says",
        ),
        (
            "silent",
            &["-DENGINES=0", "-DhipdnnGetEngineCount_ext=no"],
            "skipped: hipDNN 1.3.0.stub has no engine for this attention on gfx942:sramecc+:xnack-; it does not say which are loaded",
        ),
        (
            "before",
            &["-DWITHOUT_ATTENTION"],
            "skipped: hipDNN 1.3.0.stub does not do this: HIPDNN_STATUS_NOT_SUPPORTED: no such descriptor",
        ),
        ("old", &["-DVERSION=\"0.0.1\""], "skipped: this is hipDNN 0.0.1; attention is asked of 1.x, whose numbers are known"),
        ("few", &["-DhipdnnBackendFinalize=no"], "has no hipdnnBackendFinalize: another version of hipDNN is needed"),
        ("broken", &["-DCREATE=14"], "skipped: hipdnnCreate returned 14: HIPDNN_STATUS_PLUGIN_ERROR"),
        // Engines that said they could, and cannot.
        (
            "unbuilt",
            &["-DWORKING=0"],
            "failed: hipdnnBackendFinalize returned 14: HIPDNN_STATUS_PLUGIN_ERROR: no kernel could be built",
        ),
        // Its codes are not the runtime's: 2 is a bad parameter, and not a lack of memory.
        (
            "failing",
            &["-DEXECUTE=2"],
            "failed: hipdnnBackendExecute returned 2: HIPDNN_STATUS_BAD_PARAM: the kernel was not launched",
        ),
        // Without a version and without names it still attends.
        (
            "nameless",
            &["-DhipdnnVersionString_ext=no", "-DhipdnnGetEngineInfo_ext=none"],
            "attended by engine 0x1111111111111111, workspace 256",
        ),
    ] {
        let Some(machine) = machine(name, options) else { return };
        let text = machine.run("hip::hipdnn::tests::child_tries");
        assert!(text.lines().any(|line| line.contains(sentence)), "{name}: {sentence}\n{text}");
    }
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_tries() {
    let device = (PROBE.open)(0).unwrap();
    let operands = Operands::new(device.as_ref(), &plain());
    let outcome = device.attention()[0].plan(&plain()).and_then(|plan| {
        plan.enqueue(&operands.operands())?;
        operands.compare(device.as_ref(), &plain());
        Ok(plan.config()["engine"].rsplit(": ").next().unwrap().to_owned())
    });
    match outcome {
        Ok(engine) => println!("attended by {engine}"),
        Err(DeviceError::Unsupported(why)) => println!("skipped: {why}"),
        Err(DeviceError::Call { call, code, message }) => println!("failed: {call} returned {code}: {message}"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn doctor_says_which_plugins_there_are() {
    let Some(machine) = machine("doctor", &[]) else { return };
    let told = |variables: &[(&str, &str)]| {
        let text = machine.run_with("hip::hipdnn::tests::child_says_what_it_finds", variables);
        text.lines().find(|line| line.contains("libhipdnn_backend.so")).map_or_else(|| panic!("{text}"), str::to_owned)
    };
    let (bare, elsewhere) = (told(&[]), machine.dir.join("elsewhere"));
    assert!(bare.starts_with("ok libhipdnn_backend.so: 1.3.0.stub from /"), "{bare}");
    assert!(bare.contains("; it has no plugins, which do its work, in /") && bare.contains("/hipdnn_plugins/engines"), "{bare}");
    let own = machine.dir.join("hipdnn_plugins/engines");
    for (folder, files) in
        [(&own, &["libmiopen_plugin.so", "hip_kernel_provider.so", "notes.txt"][..]), (&elsewhere, &["other.so"])]
    {
        std::fs::create_dir_all(folder).unwrap();
        files.iter().for_each(|file| std::fs::write(folder.join(file), "").unwrap());
    }
    assert!(told(&[]).contains("; its plugins are hip_kernel_provider, miopen_plugin"));
    assert!(told(&[("HIPDNN_PLUGIN_DIR", elsewhere.to_str().unwrap())]).contains("; its plugins are other"));
}

#[test]
#[ignore = "run by another test, on the machine that it makes"]
fn child_says_what_it_finds() {
    say_what_is_found(&PROBE);
}
