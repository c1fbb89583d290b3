"""What goes wrong between the hub and its providers, now and then: calls, events, and the accounts."""

import random
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Final

from tests.support.eventually import eventually
from tests.support.fakes.telegram_api import Fault
from tests.support.provider_hosts import Reply
from tests.sync.three_legs import ThreeLegs

_CONNECTED_WITHIN_S: Final = 30.0


class Weather:
    """Lets things go wrong. `closed` are the places where people do nothing for now.

    `probe` is a mapping of its own, by which it finds out what the hub has read.
    """

    def __init__(self, probe: ThreeLegs, rng: random.Random) -> None:
        self._world = probe.world
        self._probe = probe
        self._numbers = count(1)
        self._random = rng
        self._held_until = self._down_until = self._cut_off_until = 0.0
        self._connect: Callable[[], None] | None = None
        """Ends what keeps an account from being used."""
        self.closed: set[str] = set()

    def change(self) -> str:
        """Let something go wrong: what it was."""
        slack, telegram = self._world.slack, self._world.telegram
        updates = self._world.bot.updates
        now = monotonic()
        happenings: dict[str, Callable[[], None]] = {
            "Slack limits": lambda: slack.faults.rate_limit("*"),
            "Slack fails": lambda: slack.faults.fail("*"),
            "Slack's response is lost": lambda: slack.faults.lose_response("*"),
            "Slack fails late": lambda: slack.faults.lose_response("*", reply=Reply(502)),
            "Slack is late": lambda: slack.faults.delay("*", 0.5),
            "Slack repeats an event": lambda: setattr(slack.events, "duplicate_next", 2),
            "Slack's event comes before its response": lambda: setattr(slack.events, "before_response", 2),
            "Slack's events are late": lambda: self._hold(now + self._random.uniform(0.2, 1.5)),
            "Telegram limits": lambda: telegram.fail(Fault(429, retry_after=1)),
            "Telegram fails": lambda: telegram.fail(Fault(502)),
            "Telegram's response is lost": lambda: telegram.fail(Fault(loses_response=True)),
            "Telegram fails late": lambda: telegram.fail(Fault(502, loses_response=True)),
            "Telegram is late": lambda: telegram.fail(Fault(delay_s=0.5)),
            "Telegram repeats an update": lambda: setattr(updates, "duplicate_next", 2),
            "Telegram swaps updates": lambda: setattr(updates, "swap_next", 1),
            "Slack is down": lambda: self._down("slack.com", now + self._random.uniform(0.2, 1.0)),
            "Telegram is down": lambda: self._down("api.telegram.org", now + self._random.uniform(0.2, 1.0)),
        }
        if self._connect is None:
            happenings |= {
                "Slack refuses the token": self._refuse_slack,
                "Slack is disconnected": self._disconnect_slack,
                "Slack is disabled": lambda: self._disable("Slack", self._world.slack_integration),
                "Telegram refuses the token": self._refuse_telegram,
                "Telegram is disconnected": self._disconnect_telegram,
                "Telegram is disabled": lambda: self._disable("Telegram", self._world.telegram_integration),
            }
        what = self._random.choice(list(happenings))
        happenings[what]()
        return what

    def pass_on(self, *, all_of_it: bool = False) -> str:
        """End what has lasted long enough: the account that was connected again, '' for none."""
        now = monotonic()
        if self._held_until and now > self._held_until:
            self._held_until = 0.0
            self._world.slack.events.release(backwards=self._random.random() < 0.5)
        if all_of_it or now > self._down_until:
            self._world.hosts.bring_up()
        if all_of_it:
            self._release()
        if self._connect is None or not (all_of_it or now > self._cut_off_until):
            return ""
        self._world.hosts.bring_up()
        eventually(self._connected, _CONNECTED_WITHIN_S)
        return "the account can be used again"

    def _connected(self) -> bool:
        """Try to end the outage: a fault that waits may be for this very call."""
        assert self._connect is not None
        try:
            self._connect()
        except AssertionError:
            return False
        self._connect = None
        self.closed.clear()
        return True

    def _cut_off(self, connect: Callable[[], None]) -> None:
        self._connect, self._cut_off_until = connect, monotonic() + self._random.uniform(0.3, 2.0)

    def _refuse_slack(self) -> None:
        self._close("Slack")
        self._world.app.revoke()
        self._cut_off(self._world.connect_slack)

    def _disconnect_slack(self) -> None:
        self._close("Slack")
        app, team = self._world.app, self._world.team
        channels = [one for one in team.channels.values() if app.user_id in one.members]
        self._act_on(self._world.slack_integration, "disconnect")

        def connect() -> None:
            for channel in channels:
                team.join(channel, app.user_id)  # a revoked bot leaves its channels
            self._world.connect_slack()

        self._cut_off(connect)

    def _refuse_telegram(self) -> None:
        self._world.bot.new_token()
        self._cut_off(self._world.connect_telegram)

    def _disconnect_telegram(self) -> None:
        self._close("Telegram")
        self._act_on(self._world.telegram_integration, "disconnect")
        self._cut_off(self._world.connect_telegram)

    def _disable(self, place: str, integration: str) -> None:
        self._close(place)
        self._act_on(integration, "disable")
        self._cut_off(lambda: self._act_on(integration, "enable"))

    def _close(self, place: str) -> None:
        """End what people do in a place, and wait until the hub has read all of it.

        The hub ignores the events of an account that somebody has switched off, and Slack sends none for a
        token that it refuses.
        """
        self.closed.add(place)
        self._release()
        text = f"probe {next(self._numbers)}"
        at = self._probe.slack if place == "Slack" else self._probe.telegram
        at.write(text)
        self._probe.until(lambda: text in self._probe.chat.texts())

    def _release(self) -> None:
        """Send all events that are held back."""
        if self._held_until:
            self._held_until = 0.0
            self._world.slack.events.release(backwards=self._random.random() < 0.5)
        updates = self._world.bot.updates
        updates.swap_next = 0
        updates.set(updates.url, updates.secret, drop=False)  # looks at what waits for another one

    def _act_on(self, integration: str, action: str) -> None:
        self._world.hub.call("POST", f"/api/integrations/{integration}/{action}")

    def _hold(self, until: float) -> None:
        if not self._held_until:
            self._held_until = until
            self._world.slack.events.hold()

    def _down(self, host: str, until: float) -> None:
        self._down_until = until
        self._world.hosts.take_down(host)
