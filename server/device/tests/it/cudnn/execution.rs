//! What an execution hands to cuDNN, shown by a stand-in for it.
#![expect(unsafe_code, reason = "executions are unsafe; the stand-in looks at no address")]

use device::{Dtype, Error};
use std::cell::Cell;
use std::time::Duration;

use device::cudnn::{
    ConvGraph, Handle, Library, Plan, Plans, SdpaGraph, Target, Work, Workspace, bshd_strides, first_plan,
    fused_qkv_strides,
};

use super::fake;

const WORKSPACE: Workspace = Workspace { address: 0xa000, bytes: 512 };
const ADDRESSES: [(i64, u64); 4] =
    [(SdpaGraph::Q, 0x1000), (SdpaGraph::K, 0x1080), (SdpaGraph::V, 0x1100), (SdpaGraph::O, 0x4000)];

fn library(macros: &[&str]) -> Library {
    let folder = fake::compile(&[&["VERSION=92801"], macros].concat());
    Library::open(Some(folder.path())).expect("the stand-in")
}

fn handle(library: &Library, stream: usize) -> Handle {
    // SAFETY: the stand-in does nothing with the stream.
    unsafe { Handle::new(library, std::ptr::without_provenance_mut(stream)) }.expect("a handle")
}

fn attention() -> SdpaGraph {
    let strides = fused_qkv_strides(100, 1, 64);
    SdpaGraph {
        batch: 1,
        heads: 1,
        seq_q: 100,
        seq_kv: 100,
        head_dim: 64,
        dtype: Dtype::F16,
        scale: 0.125,
        q_strides: strides,
        k_strides: strides,
        v_strides: strides,
        o_strides: bshd_strides(100, 1, 64),
    }
}

fn convolution(dtype: Dtype) -> ConvGraph {
    ConvGraph {
        input: [1, 16, 4, 6, 9],
        out_channels: 32,
        kernel: [3; 3],
        pre_padding: [0, 1, 1],
        post_padding: [0, 1, 1],
        strides: [1; 3],
        dtype,
        bias: true,
    }
}

fn plan(handle: &Handle) -> Plan {
    let target = Target::Handle(handle);
    first_plan(attention().engines(&target).expect("engines"), &target, 512).expect("a plan")
}

/// What the execution answers, up to the graph's operations, and those.
fn execute_graph(plan: &Plan, handle: &Handle, addresses: &[(i64, u64)]) -> (String, Vec<String>) {
    let told = execute(plan, handle, addresses, WORKSPACE);
    let mut parts = told.split(" | ").map(str::to_owned);
    (parts.next().unwrap_or_default(), parts.collect())
}

/// What the execution answers.
fn execute(plan: &Plan, handle: &Handle, addresses: &[(i64, u64)], workspace: Workspace) -> String {
    // SAFETY: the stand-in does not follow the addresses.
    match unsafe { plan.execute(handle, addresses, workspace) } {
        Ok(()) => "done".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn cudnn_is_given_every_address_the_scale_and_the_workspace() {
    let handle = handle(&library(&[]), 0x70);
    let (told, operations) = execute_graph(&plan(&handle), &handle, &ADDRESSES);
    // Q, K, V, O and the scale.
    assert_eq!(operations, ["41{2800=#1 2801=#2 2802=#3 2803=#4 2805=#5!}"]);
    assert_eq!(
        told,
        "cudnnBackendExecute: sdpa: status 5001: stream 0x70, engine 0, 1 at 0x1000, 2 at 0x1080, 3 at 0x1100, \
         4 at 0x4000, 5 -> 0.125, workspace 0xa000"
    );
}

#[test]
fn an_execution_that_cudnn_takes_succeeds() {
    let handle = handle(&library(&[]), 0);
    assert_eq!(execute(&plan(&handle), &handle, &ADDRESSES, WORKSPACE), "done");
}

#[test]
fn a_convolution_is_given_its_four_tensors() {
    let handle = handle(&library(&[]), 0x70);
    let target = Target::Handle(&handle);
    let graph = ConvGraph { post_padding: [2, 3, 4], strides: [1, 2, 3], ..convolution(Dtype::Bf16) };
    let plan = first_plan(graph.engines(&target).unwrap(), &target, 512).unwrap();
    let addresses =
        [(ConvGraph::Y, 0x3000), (ConvGraph::X, 0x1000), (ConvGraph::W, 0x2000), (ConvGraph::BIAS, 0x4000)];
    let (told, operations) = execute_graph(&plan, &handle, &addresses);
    let expected = [
        // A convolution with its filter's properties: spatial dimensions, f32 sums, cross-correlation, paddings before
        // and behind, strides, dilations; X, W, Y; alpha, beta.
        "10{702=1{106=3 100=0 101=1 105=0,1,1 104=2,3,4 103=1,2,3 102=1,1,1} 704=#1 703=#2 705=#100~ 700=1 701=0}",
        // An addition in f32: X, B, Y.
        "13{750=0{0=0 1=0} 751=#100~ 752=#4 753=#3}",
    ];
    assert_eq!(operations, expected);
    assert!(told.ends_with("3 at 0x3000, 1 at 0x1000, 2 at 0x2000, 4 at 0x4000, workspace 0xa000"), "{told}");
}

#[test]
fn wrong_operands_and_workspaces_never_reach_cudnn() {
    let handle = handle(&library(&[]), 0);
    let plan = plan(&handle);
    let refused = |addresses: &[(i64, u64)]| execute(&plan, &handle, addresses, WORKSPACE);
    assert_eq!(refused(&ADDRESSES[..3]), "sdpa: o: expected one address, found 0");
    let [q, k, v, o] = ADDRESSES;
    assert_eq!(refused(&[q, k, v, o, v]), "sdpa: v: expected one address, found 2");
    assert_eq!(refused(&[q, k, v, o, (9, 0x1000)]), "sdpa: expected 4 operands, found 5");
    assert_eq!(
        refused(&[q, (SdpaGraph::K, 0x1088), v, o]),
        "sdpa: k: expected a multiple of 16, found 0x1088"
    );
    assert_eq!(refused(&[q, (SdpaGraph::K, 0), v, o]), "sdpa: k: expected a multiple of 16, found 0x0");
    let expected = "sdpa: workspace: expected 512 bytes at a multiple of 256, found";
    let small = Workspace { bytes: 511, ..WORKSPACE };
    assert_eq!(execute(&plan, &handle, &ADDRESSES, small), format!("{expected} 511 at 0xa000"));
    let unaligned = Workspace { address: 0xa080, ..WORKSPACE };
    assert_eq!(execute(&plan, &handle, &ADDRESSES, unaligned), format!("{expected} 512 at 0xa080"));
}

#[test]
fn without_attention_as_one_operation_there_are_nine() {
    let handle = handle(&library(&["WITHOUT_SDPA"]), 0x70);
    let plan = plan(&handle);
    assert_eq!(plan.engine().graph_name(), "composite sdpa");
    let (told, operations) = execute_graph(&plan, &handle, &ADDRESSES);
    let expected = [
        "19{1523=18{1500=0} 1520=#1 1521=#2 1522=#100~}",   // products
        "13{750=0{0=1 1=0} 751=#100~ 752=#5! 753=#101~}",   // by the scale
        "22{1612=21{1600=3 1601=0} 1610=#101~ 1611=#102~}", // their largest
        "13{750=0{0=9 1=0} 751=#101~ 752=#102~ 753=#103~}", // less that
        "13{750=0{0=13 1=0} 751=#103~ 753=#104~}",          // exponentials
        "22{1612=21{1600=0 1601=0} 1610=#104~ 1611=#105~}", // their sum
        "13{750=0{0=15 1=0} 751=#105~ 753=#106~}",          // its logarithm
        "13{750=0{0=0 1=0} 751=#102~ 752=#106~ 753=#107~}", // and the largest
        "13{750=0{0=6 1=0} 751=#104~ 752=#105~ 753=#108~}", // exponentials by sum
        "19{1523=18{1500=0} 1520=#108~ 1521=#3 1522=#4}",   // values, weighted
    ];
    assert_eq!(operations, expected);
    assert!(told.ends_with("4 at 0x4000, 5 -> 0.125, workspace 0xa000"), "{told}");
}

#[test]
fn a_plan_that_needs_too_much_workspace_is_no_plan() {
    let handle = handle(&library(&[]), 0);
    let target = Target::Handle(&handle);
    let error = first_plan(attention().engines(&target).unwrap(), &target, 511).unwrap_err().to_string();
    assert_eq!(error, "cuDNN: engine 1 needs 512 bytes of workspace, 511 are allowed");
}

/// The second of the stand-in's two engines has a note; a search for a convolution goes over them twice.
#[test]
fn engines_that_vary_or_round_are_not_offered() {
    for (note, half, single) in [(0, 4, 2), (1, 2, 2), (2, 2, 2), (3, 2, 2), (4, 2, 2), (5, 2, 2), (40, 4, 4)]
    {
        let handle = handle(&library(&[&format!("NOTE={note}")]), 0);
        let target = Target::Handle(&handle);
        let offered = |dtype| convolution(dtype).engines(&target).unwrap().len();
        assert_eq!((offered(Dtype::F16), offered(Dtype::F32)), (half, single), "note {note}");
        let attention = attention().engines(&target).unwrap().len();
        assert_eq!(attention, if note == 40 || note == 0 { 2 } else { 1 }, "note {note}");
    }
}

#[test]
fn engines_that_fail_give_way_to_the_next_and_are_not_tried_again() {
    let mut plans = Plans::new(handle(&library(&[]), 0));
    let work = Work::Sdpa(attention());
    let engine = |plans: &mut Plans| {
        let mut number = None;
        let done = plans.run(&work, 1 << 20, None, |_, plan| {
            number = Some(plan.engine().number());
            Ok(())
        });
        assert_eq!(done.unwrap(), number.is_some());
        number
    };
    assert_eq!(engine(&mut plans), Some(0));
    plans.pass_over(&work, 1 << 20, None).unwrap();
    assert_eq!(engine(&mut plans), Some(1));
    plans.pass_over(&work, 1 << 20, None).unwrap();
    assert_eq!(engine(&mut plans), None);
}

#[test]
fn a_plan_is_made_once_for_each_graph_and_a_refusal_is_remembered() {
    let mut plans = Plans::new(handle(&library(&[]), 0));
    let work = Work::Sdpa(attention());
    let called = Cell::new(0);
    let mut run = |work: &Work, limit_bytes, outcome: fn() -> device::Result<()>| {
        plans.run(work, limit_bytes, None, |_, _| {
            called.set(called.get() + 1);
            outcome()
        })
    };
    let done = || Ok(());
    assert!(run(&work, 512, done).unwrap());
    // The limit counts only when a plan is made: this one was kept.
    assert!(run(&work, 511, done).unwrap());
    let broken = || Err(Error::Call { call: "test", message: "broken".to_owned() });
    assert!(matches!(run(&work, 512, broken), Err(Error::Call { .. })));
    // By both engines.
    let refused = || Err(Error::Unsupported { call: "test", message: "refused".to_owned() });
    assert!(!run(&work, 512, refused).unwrap());
    assert!(!run(&work, 512, done).unwrap());
    assert_eq!(called.get(), 5, "refused ones are not executed again");
    // Others are graphs of their own; one without a plan is refused.
    let other = Work::Sdpa(SdpaGraph { scale: 0.25, ..attention() });
    assert!(run(&other, 512, done).unwrap());
    let convolution = Work::Conv(convolution(Dtype::F16));
    assert!(!run(&convolution, 511, done).unwrap());
    assert!(!run(&convolution, 512, done).unwrap());
    assert_eq!(called.get(), 6);
}

#[test]
fn measured_plans_are_the_fastest() {
    let mut plans = Plans::new(handle(&library(&[]), 0));
    let time = |_: &Handle, plan: &Plan| Ok(Duration::from_millis(2 - plan.engine().number() as u64));
    let done = plans.run(&Work::Sdpa(attention()), 512, Some(&time), |_, plan| {
        assert_eq!(plan.engine().number(), 1);
        Ok(())
    });
    assert!(done.unwrap());
}

/// The stand-in has two engines: short memory must not make the second the plan, which would round differently.
#[test]
fn short_memory_is_told_as_such_and_no_other_engine_is_tried() {
    let without_memory = |outcome: device::Result<bool>| match outcome {
        Err(Error::OutOfMemory(message)) => message,
        other => panic!("expected no memory, found {other:?}"),
    };
    let time = |_: &Handle, _: &Plan| Ok(Duration::from_millis(1));
    for work in [Work::Sdpa(attention()), Work::Conv(convolution(Dtype::F16))] {
        let mut plans = Plans::new(handle(&library(&["PLAN_STATUS=4004"]), 0));
        let told = without_memory(plans.run(&work, 512, None, |_, _| Ok(())));
        assert!(told.starts_with("cudnnBackendFinalize: execution plan: status 4004"), "{told}");
        without_memory(plans.run(&work, 512, Some(&time), |_, _| Ok(())));
        // What fails for other reasons is passed over, until there is nothing left.
        let mut plans = Plans::new(handle(&library(&["PLAN_STATUS=3000"]), 0));
        assert!(!plans.run(&work, 512, None, |_, _| Ok(())).unwrap());
    }
}

#[test]
fn an_execution_without_memory_may_be_tried_again() {
    let mut plans = Plans::new(handle(&library(&["EXECUTION_STATUS=4004"]), 0));
    let work = Work::Sdpa(attention());
    for _ in 0..2 {
        // SAFETY: the stand-in does not follow the addresses.
        let outcome = plans
            .run(&work, 512, None, |handle, plan| unsafe { plan.execute(handle, &ADDRESSES, WORKSPACE) });
        assert!(matches!(outcome, Err(Error::OutOfMemory(_))), "{outcome:?}");
    }
    // With memory there again, the plan is as it was.
    assert!(plans.run(&work, 512, None, |_, _| Ok(())).unwrap());
}

#[test]
fn a_handle_that_finds_no_memory_says_so() {
    // SAFETY: the stand-in does nothing with the stream.
    let outcome = unsafe { Handle::new(&library(&["CREATION_STATUS=4004"]), std::ptr::null_mut()) };
    assert!(matches!(outcome, Err(Error::OutOfMemory(_))), "{outcome:?}");
}
