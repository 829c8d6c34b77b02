//! CreateGuest and Delete: run, or only planned if the request says so.

use crate::guest::wire::verbs::{PlanRequest, PlanResponse};
use crate::guest::wire::{GuestRequest, GuestResponse};
use crate::ops::{self, Error, Guests, Libvirt, OperationPlan, Problem};
use crate::rpc::texts::on_old_path;

pub(super) fn create_or_plan(agent: &Libvirt, request: PlanRequest) -> Result<PlanResponse, Error> {
    either(&agent.guests, request, Guests::create_guest, Guests::plan_create_guest)
}

pub(super) fn delete_or_plan(agent: &Libvirt, request: PlanRequest) -> Result<PlanResponse, Error> {
    either(&agent.guests, request, Guests::delete, Guests::plan_delete)
}

/// Returns whether the request is a dry run: by the member, or by the argument in `args`, which all
/// paths have.
///
/// # Errors
/// [`Error::Invalid`] for an argument that is neither `true` nor `false`.
pub(super) fn is_asked(request: &PlanRequest) -> Result<bool, Error> {
    Ok(ops::is_dry_run(&request.args)? || request.dry_run)
}

fn either(
    guests: &Guests,
    request: PlanRequest,
    carry_out: fn(&Guests, GuestRequest) -> Result<GuestResponse, Error>,
    plan: fn(&Guests, GuestRequest) -> Result<OperationPlan, Error>,
) -> Result<PlanResponse, Error> {
    if !is_asked(&request)? {
        let done = carry_out(guests, request.into())?;
        return Ok(PlanResponse { guest: done.guest, plan: None, warnings: done.warnings });
    }
    let OperationPlan { guest, mut plan, problems } = plan(guests, request.into())?;
    plan.problems = problems.iter().map(text).collect();
    Ok(PlanResponse { guest: Some(guest), plan: Some(plan), warnings: Vec::new() })
}

/// Returns a problem with the error text of `/_mistify_RPC_`: a plan is the same on both paths.
fn text(problem: &Problem) -> String {
    match problem {
        Problem::Error(error) => on_old_path(error),
        Problem::Part(part, error) => format!("{part}: {}", on_old_path(error)),
        Problem::Words(words) => words.clone(),
    }
}
