//! What an execution hands to cuDNN, shown by a stand-in for it.
#![expect(unsafe_code, reason = "executions are unsafe; the stand-in looks at no address")]

use device::Dtype;
use device::cudnn::{
    ConvGraph, Handle, Library, Plan, SdpaGraph, Target, Workspace, bshd_strides, first_plan,
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

fn plan(handle: &Handle) -> Plan {
    let target = Target::Handle(handle);
    first_plan(attention().engines(&target).expect("engines"), &target, 512).expect("a plan")
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
    let told = execute(&plan(&handle), &handle, &ADDRESSES, WORKSPACE);
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
    let graph = ConvGraph {
        input: [1, 16, 4, 6, 9],
        out_channels: 32,
        kernel: [3; 3],
        pre_padding: [0, 1, 1],
        post_padding: [0, 1, 1],
        strides: [1; 3],
        dtype: Dtype::Bf16,
        bias: true,
    };
    let plan = first_plan(graph.engines(&target).unwrap(), &target, 512).unwrap();
    let addresses =
        [(ConvGraph::Y, 0x3000), (ConvGraph::X, 0x1000), (ConvGraph::W, 0x2000), (ConvGraph::BIAS, 0x4000)];
    let told = execute(&plan, &handle, &addresses, WORKSPACE);
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
    let told = execute(&plan, &handle, &ADDRESSES, WORKSPACE);
    assert!(told.ends_with("4 at 0x4000, 5 -> 0.125, workspace 0xa000"), "{told}");
}

#[test]
fn a_plan_that_needs_too_much_workspace_is_no_plan() {
    let handle = handle(&library(&[]), 0);
    let target = Target::Handle(&handle);
    let error = first_plan(attention().engines(&target).unwrap(), &target, 511).unwrap_err().to_string();
    assert_eq!(error, "cuDNN: engine 1 needs 512 bytes of workspace, 511 are allowed");
}
