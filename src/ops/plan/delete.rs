//! The dry run of Delete.

use std::path::Path;
use std::time::Instant;

use crate::guest::wire::verbs::PlanStep;
use crate::guest::wire::{Guest, GuestRequest};
use crate::libvirt::{self, Code, Connection};
use crate::ops::disks::domain_uses::uses_of_others;
use crate::ops::disks::volume_owners::Expected;
use crate::ops::guests::delete::leaving;
use crate::ops::guests::lifecycle::get_state;
use crate::ops::guests::screens;
use crate::ops::guests::seed_files::SeedFiles;
use crate::ops::networks::guest_networks::{self, OwnerMatch, Use};
use crate::ops::plan::{OperationPlan, Problem, step_of};
use crate::ops::{Error, Guests, args};
use crate::pool::{JobName, Lane};
use crate::storage::{Id, InUse, PoolName, RemovalPlan, Volumes};

impl Guests {
    /// Returns what [`Guests::delete`] would do with the same request.
    ///
    /// # Errors
    /// As [`Guests::plan_create_guest`].
    ///
    /// # Blocking
    /// As [`Guests::plan_create_guest`].
    pub fn plan_delete(&self, request: GuestRequest) -> Result<OperationPlan, Error> {
        let guest = request.guest.ok_or(Error::NoGuest)?;
        let deadline = args::plan_deadline(&request.args, self.core.deadlines.change)?;
        let (id, asked) = (guest.id.clone(), guest.clone());
        let mut operation = self.new_plan(guest);
        let pool = self.core.volumes.pool().clone();
        let state = self.core.state_dir();
        let look = move |connection: &Connection| {
            look_at_leaving(connection, &asked, &pool, state.as_deref())
        };
        let seen = self.core.read(Lane::Read, "plan Delete", &id, deadline, look);
        let seen = operation.unless_failed("libvirt", seen)?;
        let expected = seen.as_ref().map_or(Expected::Some, |seen| seen.expected);
        let in_use = seen.as_ref().map(|seen| seen.in_use.clone()).unwrap_or_default();
        let missing = seen.and_then(|seen| {
            operation.plan.steps.extend(seen.steps);
            operation.plan.warnings.extend(seen.warnings);
            seen.missing
        });
        if let Ok(id) = Id::parse(&id) {
            self.plan_removal(&mut operation, id, expected, in_use, deadline)?;
        }
        match missing {
            Some(missing) if operation.plan.steps.is_empty() => {
                operation.problems.push(Problem::Error(missing.into()));
            }
            _ => operation.plan.steps.extend(
                screens::existing_console_log(&id, &self.core.host).map(|log| PlanStep {
                    what: "remove file",
                    name: log,
                    ..PlanStep::default()
                }),
            ),
        }
        Ok(operation)
    }

    /// Adds the volumes that a Delete would destroy.
    fn plan_removal(
        &self,
        operation: &mut OperationPlan,
        guest: Id,
        expected: Expected,
        in_use: InUse,
        deadline: Instant,
    ) -> Result<(), Error> {
        let what = JobName::new("plan Delete", guest.to_string());
        let look = move |volumes: &dyn Volumes| volumes.destroying_guest(&guest, &in_use, deadline);
        let removing = match self.core.ask_storage(what, deadline, look) {
            // As in Delete itself.
            Err(Error::Storage(error)) if expected.allows(&error) => return Ok(()),
            removing => operation.unless_failed("storage", removing)?,
        };
        let Some(RemovalPlan { actions, left, foreign }) = removing else { return Ok(()) };
        operation.plan.steps.extend(actions.into_iter().map(step_of));
        operation.problems.extend(left.iter().map(|left| Problem::Words(left.to_string())));
        let stays = |name| format!("keeping {name}: the agent did not create it for this guest");
        operation.plan.warnings.extend(foreign.into_iter().map(stays));
        Ok(())
    }
}

/// libvirt's data for the guest to delete.
struct SeenLeaving {
    steps: Vec<PlanStep>,
    warnings: Vec<String>,
    /// libvirt's error that there is no such domain.
    missing: Option<libvirt::Error>,
    /// Whether the guest has volumes that this agent made.
    expected: Expected,
    /// The volumes that other domains use, and the sources that callers named.
    in_use: InUse,
}

fn look_at_leaving(
    connection: &Connection,
    guest: &Guest,
    pool: &PoolName,
    state: Option<&Path>,
) -> Result<SeenLeaving, Error> {
    let id = guest.id.as_str();
    let (domain, missing) = match connection.lookup_domain_by_name(id) {
        Err(error) if error.code == Code::NO_DOMAIN => (None, Some(error)),
        found => (Some(found?), None),
    };
    let (names, volumes, _) = leaving(connection, guest, domain.as_ref(), pool)?;
    let step = |what, name: &str| PlanStep { what, name: name.to_owned(), ..PlanStep::default() };
    let mut steps = Vec::new();
    if let Some(domain) = domain {
        if domain.is_active()? {
            let detail = format!("it is {}", get_state(&domain)?.name());
            steps.push(PlanStep { detail, ..step("destroy domain", id) });
        }
        steps.push(step("undefine domain", id));
        let files = SeedFiles::new(state, &domain.uuid()?).ok().filter(SeedFiles::exist);
        let name = files.map(|files| files.directory().display().to_string());
        steps.extend(name.map(|name| step("remove files", &name)));
    }
    let mut warnings = Vec::new();
    let others = uses_of_others(connection, id)?;
    for name in &names {
        match guest_networks::present(connection, id, name, &others, OwnerMatch::OrOriginal)? {
            Some(Use::Used) => {
                warnings.push(format!("keeping network {name}: another guest uses it"))
            }
            Some(Use::Unused) => steps.push(step("remove network", name)),
            None => {}
        }
    }
    let renamed = volumes.renamed.iter().map(|volume| PlanStep {
        detail: "only if it has the mark of this domain".to_owned(),
        ..step("destroy", volume.as_str())
    });
    steps.extend(renamed);
    let mut in_use = InUse::default();
    others.iter().for_each(|other| other.add_to(&mut in_use));
    volumes.supplied.iter().for_each(|path| in_use.keep(path));
    Ok(SeenLeaving { steps, warnings, missing, expected: volumes.expected, in_use })
}
