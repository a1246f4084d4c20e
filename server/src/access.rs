//! Who may connect, and whom the answer imitates.
//!
//! Knows: what settings say of it. Refuses to know: how a request is judged; the library does.

use ringwire::service::{Echo, Gate, OriginError, Origins};

use crate::settings::{Allowed, Settings};

/// The service, with what stands before it.
///
/// # Errors
///
/// Why something is no origin.
pub fn service(settings: &Settings) -> Result<Gate<Echo>, OriginError> {
    let allowed = settings
        .allow_origin
        .iter()
        .map(|text| Allowed::parse(text));
    let allowed = allowed.collect::<Result<Vec<_>, _>>()?;
    let mut gate = Gate::new(Echo).like_kaazing(settings.compat == "kaazing");
    let of = |path: Option<&str>| {
        let mut here = allowed
            .iter()
            .filter(|allowed| allowed.path.as_deref() == path);
        here.try_fold(Origins::default(), |origins, allowed| {
            origins.allow(&allowed.origin)
        })
    };
    if allowed.iter().any(|allowed| allowed.path.is_none()) {
        gate = gate.origins(of(None)?);
    }
    for path in allowed.iter().filter_map(|allowed| allowed.path.as_deref()) {
        gate = gate.route(path, of(Some(path))?);
    }
    Ok(gate)
}
