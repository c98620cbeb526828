//! How a process is asked to stop.

use tokio_util::sync::CancellationToken;

/// A token that is cancelled by Ctrl-C, SIGTERM or SIGHUP, which a closed terminal sends. A second signal ends the process at once.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn shutdown_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Ignored at the start, as under `nohup`, it must not end the process.
    let mut hang_up = if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
    let cancelled = token.clone();
    // Lives as long as the process, like the signals it waits for.
    tokio::spawn(async move {
        loop {
            let hung_up = async {
                match &mut hang_up {
                    Some(hang_up) => hang_up.recv().await,
                    None => std::future::pending().await,
                }
            };
            let by_hang_up = tokio::select! {
                _ = interrupt.recv() => false,
                _ = terminate.recv() => false,
                _ = hung_up => true,
            };
            if !cancelled.is_cancelled() {
                tracing::info!("stopping; a second signal stops at once");
                cancelled.cancel();
            } else if !by_hang_up {
                // A terminal that closes while the process stops is no second request.
                std::process::exit(130);
            }
        }
    });
    Ok(token)
}

/// Whether SIGHUP was ignored when the process began, as Linux reports it.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
