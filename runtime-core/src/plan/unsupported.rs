//! What OCI has for others, and what a warning says of it.

use oci_spec::runtime::Spec;

use super::draft::Draft;

/// What config.json has for others: a runtime passes over it.
pub(super) fn of_other_platforms(spec: &Spec, draft: &mut Draft) {
    let line = spec.process().as_ref().and_then(|process| process.command_line().as_ref());
    let present = [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
        ("process.commandLine", line.is_some_and(|line| !line.is_empty())),
    ];
    for (field, _) in present.iter().filter(|(_, present)| *present) {
        draft.warn(format!("{field}: ignored, it is for another platform"));
    }
}
