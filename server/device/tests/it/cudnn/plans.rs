//! Choosing between engines.

use std::time::Duration;

use device::cudnn::{ConvGraph, Target, fastest_plan, first_plan};
use device::{Dtype, Error};

use super::vae::Walk;
use super::{WORKSPACE_LIMIT_BYTES, for_each_gpu};

/// One that has many engines which need no compilation.
fn graph() -> ConvGraph {
    Walk::decoder(Dtype::Bf16, [2, 60, 90]).convolutions.swap_remove(1).1
}

/// The numbers of the first engines that become plans, with duplicates: knobs differ.
fn numbers(target: &Target<'_>) -> Vec<i64> {
    let engines = graph().engines(target).expect("engines").into_iter();
    engines.filter_map(|engine| engine.plan(target).ok()).map(|plan| plan.engine().number()).take(4).collect()
}

#[test]
fn the_fastest_of_the_candidates_is_kept() {
    for_each_gpu(|gpu, target| {
        for fastest in 0..4 {
            let mut timed = Vec::new();
            let plan =
                fastest_plan(graph().engines(target).unwrap(), target, WORKSPACE_LIMIT_BYTES, 4, |plan| {
                    timed.push(plan.engine().number());
                    Ok(Duration::from_millis(if timed.len() == fastest + 1 { 1 } else { 2 }))
                });
            assert_eq!(timed, numbers(target), "{}", gpu.arch);
            assert_eq!(plan.unwrap().engine().number(), timed[fastest], "{}", gpu.arch);
        }
    });
}

#[test]
fn of_equals_the_first_is_kept_and_a_refused_one_is_passed_over() {
    for_each_gpu(|gpu, target| {
        let mut timed = Vec::new();
        let plan = fastest_plan(graph().engines(target).unwrap(), target, WORKSPACE_LIMIT_BYTES, 4, |plan| {
            timed.push(plan.engine().number());
            match timed.len() {
                1 => Err(Error::Call { call: "test", message: "refused".to_owned() }),
                _ => Ok(Duration::from_millis(1)),
            }
        });
        assert_eq!(plan.unwrap().engine().number(), timed[1], "{}", gpu.arch);
    });
}

#[test]
fn a_lost_device_ends_the_search() {
    for_each_gpu(|_, target| {
        let mut timed = 0;
        let engines = graph().engines(target).unwrap();
        let outcome = fastest_plan(engines, target, WORKSPACE_LIMIT_BYTES, 4, |_| {
            timed += 1;
            Err(Error::Lost("test".to_owned()))
        });
        assert!(matches!(outcome, Err(Error::Lost(_))));
        assert_eq!(timed, 1);
    });
}

#[test]
fn a_plan_keeps_to_the_workspace() {
    for_each_gpu(|gpu, target| {
        let plan = first_plan(graph().engines(target).unwrap(), target, 0).unwrap();
        assert_eq!(plan.workspace_bytes(), 0, "{}", gpu.arch);
    });
}

#[test]
fn a_plan_names_its_operands() {
    for_each_gpu(|_, target| {
        let plan = first_plan(graph().engines(target).unwrap(), target, WORKSPACE_LIMIT_BYTES).unwrap();
        let found: Vec<_> =
            plan.operands().iter().map(|operand| (operand.id, operand.name, operand.span_bytes())).collect();
        let frame = 60 * 90 * 512 * 2;
        let expected = [
            (ConvGraph::X, "x", 4 * frame),
            (ConvGraph::W, "w", 512 * 27 * 512 * 2),
            (ConvGraph::Y, "y", 2 * frame),
            (ConvGraph::BIAS, "bias", 512 * 2),
        ];
        assert_eq!(found, expected);
    });
}
