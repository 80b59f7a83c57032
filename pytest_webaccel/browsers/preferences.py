"""What Firefox is started with, and why: preferences, flags and environment.

Firefox takes preferences from a file in its profile where Chromium takes flags. Its remote agent adds a set of its
own for automation (``remote.prefs.recommended``); what is needed before that agent runs, or matters to what this
project claims, is here, so that it is known and holds whatever that set becomes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

from pytest_webaccel.browsers.install.cache import Entry, cache_root
from pytest_webaccel.browsers.settings import Setting, has_gpu

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "VULKAN_VARIABLES",
    "Preference",
    "firefox_arguments",
    "firefox_environment",
    "firefox_preferences",
    "firefox_settings",
    "swiftshader",
    "user_js",
    "vulkan_driver",
]

#: Name of SwiftShader's description for the Vulkan loader, beside its library.
_ICD = "vk_swiftshader_icd.json"
#: Variables by which a user names a Vulkan driver: the new name and the old one.
VULKAN_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")


@dataclasses.dataclass(frozen=True, slots=True)
class Preference:
    """One preference and the reason for it."""

    name: str
    value: bool | int | str
    reason: str


_WEBGPU = (
    Preference("dom.webgpu.enabled", True, "releases for Linux keep WebGPU behind it"),
    Preference("gfx.webgpu.ignore-blocklist", True, "software adapters are on the list of those not to be used"),
)
_AWAKE = (
    Preference("dom.min_background_timeout_value", 4, "a heartbeat comes on time from a page that is not in front"),
    Preference("dom.min_background_timeout_value_without_budget_throttling", 4, "likewise"),
    Preference("dom.timeout.enable_budget_timer_throttling", False, "busy pages may use as much time as they need"),
    Preference("dom.timeout.background_throttling_max_budget", -1, "likewise"),
    Preference("widget.windows.window_occlusion_tracking.enabled", False, "a window that nobody sees is not hidden"),
    Preference("dom.ipc.processPriorityManager.enabled", False, "no page's process loses its priority"),
    Preference("threads.lower_mainthread_priority_in_background.enabled", False, "likewise for its main thread"),
    Preference("dom.suspend_inactive.enabled", False, "no page is put to sleep"),
    Preference("browser.tabs.unloadOnLowMemory", False, "a page is not thrown away when memory is short"),
    Preference("network.websocket.delay-failed-reconnects", False, "a page comes back at once on a lost socket"),
)
_HONEST = (
    Preference("dom.max_script_run_time", 0, "an endless loop hangs its page and raises no dialog"),
    Preference("dom.max_chrome_script_run_time", 0, "likewise for the browser's own scripts"),
    Preference("dom.ipc.reportProcessHangs", False, "a page that is stopped on purpose is not reported as hung"),
    Preference("dom.ipc.tabs.shutdownTimeoutSecs", 0, "whether and when a page's process is killed is ours to say"),
    Preference("dom.ipc.processCount.file", 8, "a page from a file never shares the process of the page it replaces"),
    Preference("dom.ipc.processCount.webIsolated", 8, "likewise for pages of one server"),
    Preference("dom.ipc.processCount.webCOOP+COEP", 8, "likewise for isolated pages, which lanes are"),
    Preference("browser.sessionstore.resume_from_crash", False, "a browser that was killed asks nothing later"),
    Preference("browser.sessionstore.max_resumed_crashes", 0, "likewise"),
    Preference("toolkit.startup.max_resumed_crashes", -1, "crashes on purpose never lead to safe mode"),
    Preference("dom.disable_beforeunload", True, "a page that is replaced cannot object"),
    Preference("dom.disable_open_during_load", False, "nothing waits for a click that nobody makes"),
)
_QUIET = (
    Preference("datareporting.policy.dataSubmissionEnabled", False, "nothing is reported about a run"),
    Preference("datareporting.healthreport.uploadEnabled", False, "likewise"),
    Preference("datareporting.usage.uploadEnabled", False, "likewise"),
    Preference("toolkit.telemetry.enabled", False, "likewise"),
    Preference("toolkit.telemetry.server", "", "likewise: there is no one to send it to"),
    Preference("toolkit.telemetry.unified", False, "likewise"),
    Preference("telemetry.fog.test.localhost_port", -1, "likewise"),
    Preference("browser.ping-centre.telemetry", False, "likewise"),
    Preference("app.normandy.enabled", False, "two runs of one build behave alike: no studies"),
    Preference("app.shield.optoutstudies.enabled", False, "likewise"),
    Preference("app.update.auto", False, "the browser is not swapped during a run"),
    Preference("app.update.disabledForTesting", True, "likewise"),
    Preference("extensions.update.enabled", False, "no extension is fetched"),
    Preference("extensions.systemAddon.update.enabled", False, "likewise for built-in ones"),
    Preference("extensions.getAddons.cache.enabled", False, "likewise for their descriptions"),
    Preference("extensions.enabledScopes", 0, "a system-wide extension must not touch the page"),
    Preference("extensions.installDistroAddons", False, "nothing is installed into a new profile"),
    Preference("media.gmp-manager.updateEnabled", False, "no plugin is fetched"),
    Preference("browser.safebrowsing.malware.enabled", False, "no lists are fetched"),
    Preference("browser.safebrowsing.phishing.enabled", False, "likewise"),
    Preference("browser.safebrowsing.downloads.remote.enabled", False, "likewise"),
    Preference("browser.region.network.url", "", "nobody is asked where this machine is"),
    Preference("browser.region.update.enabled", False, "likewise"),
    Preference("browser.search.update", False, "no search engine is looked up"),
    Preference("services.settings.server", "data:,#remote-settings-dummy/v1", "no settings are fetched"),
    Preference("network.captive-portal-service.enabled", False, "no server is asked whether there is a network"),
    Preference("network.connectivity-service.enabled", False, "likewise"),
    Preference("network.dns.disablePrefetch", True, "no name is looked up that the test did not ask for"),
    Preference("network.prefetch-next", False, "likewise for pages"),
    Preference("network.http.speculative-parallel-limit", 0, "likewise for connections"),
    Preference("network.trr.mode", 5, "names are looked up by the system, as everywhere else"),
    Preference("dom.push.connection.enabled", False, "no push service is connected to"),
    Preference("media.volume_scale", "0.0", "models of audio must not be heard"),
)
_BARE = (
    Preference("browser.startup.page", 0, "no page is shown that was not asked for"),
    Preference("browser.startup.homepage", "about:blank", "likewise"),
    Preference("browser.startup.homepage_override.mstone", "ignore", "no page about what is new"),
    Preference("startup.homepage_welcome_url", "about:blank", "no welcome page in a new profile"),
    Preference("startup.homepage_welcome_url.additional", "", "likewise"),
    Preference("browser.aboutwelcome.enabled", False, "likewise"),
    Preference("trailhead.firstrun.branches", "nofirstrun-empty", "likewise"),
    Preference("datareporting.policy.dataSubmissionPolicyBypassNotification", True, "likewise, about data"),
    Preference("termsofuse.bypassNotification", True, "likewise, about terms"),
    Preference("browser.shell.checkDefaultBrowser", False, "no question at the start"),
    Preference("browser.warnOnQuit", False, "no question at the end"),
    Preference("browser.tabs.warnOnClose", False, "likewise"),
    Preference("browser.migrate.enabled", False, "no other browser's data is looked for"),
    Preference("browser.newtab.preload", False, "each page of the browser's own costs a process and start time"),
    Preference("browser.newtabpage.enabled", False, "likewise"),
    Preference("browser.startup.blankWindow", False, "a window that is replaced at once costs start time"),
    Preference("browser.pagethumbnails.capturing_disabled", True, "nobody looks at pictures of pages"),
    Preference("browser.sessionstore.interval", 3_600_000, "what is open is not written down four times a minute"),
    Preference("dom.ipc.processCount", 1, "one spare process for pages is enough; each takes 40 MiB"),
    Preference("network.process.enabled", False, "sockets need no process of their own here: less to start"),
    Preference("media.rdd-process.enabled", False, "likewise for decoders of media"),
    Preference("signon.rememberSignons", False, "nothing is asked about passwords"),
    Preference("extensions.formautofill.addresses.enabled", False, "likewise about addresses"),
    Preference("browser.translations.enable", False, "likewise about languages"),
)
_AUTOMATION = (
    Preference("remote.active-protocols", 1, "WebDriver BiDi, the only protocol that is used"),
    Preference("remote.log.level", "Warn", "standard error is kept for messages, and is not endless"),
)


def firefox_preferences() -> tuple[Preference, ...]:
    """Return every preference that Firefox is started with."""
    return (*_WEBGPU, *_AWAKE, *_HONEST, *_QUIET, *_BARE, *_AUTOMATION)


def user_js() -> str:
    """Return :func:`firefox_preferences` as the text of a profile's ``user.js``."""
    return "".join(
        f"user_pref({json.dumps(preference.name)}, {json.dumps(preference.value)});\n"
        for preference in firefox_preferences()
    )


def firefox_settings(*, headed: bool = False) -> tuple[Setting, ...]:
    """Return the flags for Firefox, the profile's and the start page's left out."""
    settings = (
        Setting("--remote-debugging-port=0", "WebDriver BiDi on a loopback port of the system's choice"),
        Setting("--no-remote", "no running Firefox is joined, and none joins"),
        Setting("--new-instance", "likewise"),
    )
    return settings if headed else (*settings, Setting("--headless", "no display is needed"))


def firefox_arguments(*, headed: bool = False) -> tuple[str, ...]:
    """Return the flags of :func:`firefox_settings`."""
    return tuple(setting.flag for setting in firefox_settings(headed=headed))


def swiftshader() -> Path | None:
    """Return the description of the newest SwiftShader in our cache, which came with a Chromium; None without one."""
    found = [
        (entry.version, entry.folder / _ICD)
        for path in (cache_root() / "chromium").glob("*")
        if (entry := Entry.read(path)) is not None and (entry.folder / _ICD).is_file()
    ]
    return max(found, key=lambda one: [int(part) for part in one[0].split(".") if part.isdigit()])[1] if found else None


def vulkan_driver(*, gpu: bool | None = None) -> dict[str, str]:
    """Return the environment that chooses the Vulkan driver for WebGPU; empty where the system's choice stands.

    That is so where a GPU may be present (``gpu``; found out when None) and where the user named a driver. Without a
    GPU it is our cache's SwiftShader: Mesa's lavapipe, the system's own, was seen to give silently wrong results
    past 65,535 iterations of a loop (docs/limitations.md).
    """
    if any(os.environ.get(name) for name in VULKAN_VARIABLES) or (gpu if gpu is not None else has_gpu()):
        return {}
    description = swiftshader()
    return {} if description is None else dict.fromkeys(VULKAN_VARIABLES, str(description))


def firefox_environment(*, gpu: bool | None = None) -> dict[str, str]:
    """Return what is added to Firefox's environment, :func:`vulkan_driver` included."""
    return {
        # Crashes are caused on purpose; none is reported, and a page's crash must not end the browser.
        "MOZ_CRASHREPORTER_DISABLE": "1",
        "MOZ_CRASHREPORTER_NO_REPORT": "1",
        # No helper is left behind that waits for crashes.
        "MOZ_CRASHREPORTER": "",
        # A test may be started from within a Firefox that sets this; it would end with a page's crash.
        "MOZ_CRASHREPORTER_SHUTDOWN": "",
        # Nothing of the desktop is asked: no portal, no accessibility bus.
        "GTK_USE_PORTAL": "0",
        "NO_AT_BRIDGE": "1",
        **vulkan_driver(gpu=gpu),
    }
