//! `hooks` of config.json: which of them the child runs, and that none of them is nonsense.

use std::ffi::CString;

use oci_spec::runtime::{Hook, Hooks};

use super::draft::{Draft, c_string, text};
use super::{Error, Input};
use crate::program::CStringArray;
use crate::state::{Identity, Status};
use crate::step::{HookKind, HookStep, Step};

/// Every list with its kind, in the order of a container's life.
#[allow(deprecated)] // prestart is deprecated in OCI, not gone
pub(crate) fn lists(hooks: &Hooks) -> [(HookKind, &[Hook]); 6] {
    fn list(hooks: &Option<Vec<Hook>>) -> &[Hook] {
        hooks.as_deref().unwrap_or_default()
    }
    [
        (HookKind::Prestart, list(hooks.prestart())),
        (HookKind::CreateRuntime, list(hooks.create_runtime())),
        (HookKind::CreateContainer, list(hooks.create_container())),
        (HookKind::StartContainer, list(hooks.start_container())),
        (HookKind::Poststart, list(hooks.poststart())),
        (HookKind::Poststop, list(hooks.poststop())),
    ]
}

/// The hooks of a container, checked.
pub(super) struct Checked<'a> {
    identity: Identity<'a>,
    lists: [(HookKind, &'a [Hook]); 6],
}

impl<'a> Checked<'a> {
    /// Refuses what could never run, before anything is made.
    pub fn parse(input: &Input<'a>) -> Result<Option<Self>, Error> {
        let Some(hooks) = input.spec.hooks() else { return Ok(None) };
        let lists = lists(hooks);
        for (kind, list) in lists {
            for (index, hook) in list.iter().enumerate() {
                check(&format!("hooks.{}[{index}]", kind.name()), hook)?;
            }
        }
        Ok(Some(Self { identity: Identity { id: input.id, bundle: input.bundle, spec: input.spec }, lists }))
    }

    /// Whether anything runs between the mounts and the pivot.
    pub fn before_pivot(&self) -> bool {
        self.of_the_host() || !self.list(HookKind::CreateContainer).is_empty()
    }

    fn of_the_host(&self) -> bool {
        !self.list(HookKind::Prestart).is_empty() || !self.list(HookKind::CreateRuntime).is_empty()
    }

    /// The parent's turn, then the container's own.
    pub fn create(&self, draft: &mut Draft) -> Result<(), Error> {
        if self.of_the_host() {
            draft.step(Step::RuntimeHooks);
        }
        self.run(HookKind::CreateContainer, draft)
    }

    /// Between the gate and the program.
    pub fn start(&self, draft: &mut Draft) -> Result<(), Error> {
        self.run(HookKind::StartContainer, draft)
    }

    fn list(&self, kind: HookKind) -> &'a [Hook] {
        self.lists.iter().find(|(other, _)| *other == kind).map(|(_, list)| *list).unwrap_or_default()
    }

    fn run(&self, kind: HookKind, draft: &mut Draft) -> Result<(), Error> {
        // Everything after the mounts is done counts as created: step 2 of the lifecycle is over. runtime.md
        let state = self.identity.state(Status::Created, None).json();
        for (index, hook) in self.list(kind).iter().enumerate() {
            let field = format!("hooks.{}[{index}]", kind.name());
            let strings = |strings: &[String]| strings.iter().map(|string| c_string(&field, string)).collect();
            let args: Vec<CString> = strings(hook.args().as_deref().unwrap_or_default())?;
            let path = c_string(&field, text(hook.path()))?;
            draft.step(Step::Hook(Box::new(HookStep {
                kind,
                index,
                args: CStringArray::new(if args.is_empty() { vec![path.clone()] } else { args }),
                env: hook.env().as_deref().map(strings).transpose()?.map(CStringArray::new),
                timeout: hook.timeout().and_then(|seconds| u32::try_from(seconds).ok()),
                state: state.as_bytes().get(1..).unwrap_or_default().to_vec(),
                path,
            })));
        }
        Ok(())
    }
}

fn check(field: &str, hook: &Hook) -> Result<(), Error> {
    match text(hook.path()) {
        "" => return Err(Error::missing(format!("{field}.path"))),
        path if !path.starts_with('/') => {
            return Err(Error::invalid(format!("{field}.path"), path, "must be an absolute path"));
        }
        path => c_string(&format!("{field}.path"), path)?,
    };
    for (name, list) in [("args", hook.args()), ("env", hook.env())] {
        for value in list.iter().flatten() {
            c_string(&format!("{field}.{name}"), value)?;
        }
    }
    if let Some(seconds) = hook.timeout().filter(|seconds| *seconds <= 0) {
        return Err(Error::invalid(format!("{field}.timeout"), seconds.to_string(), "must be greater than zero"));
    }
    Ok(())
}
