"""The pages of members, as an admin uses them."""

from tests.console.person import Person
from tests.support.hub import Hub
from tests.support.recorded_secrets import record_secret


def test_a_member_is_created_changed_and_removed(hub: Hub, admin: Person, person: Person) -> None:
    form = admin.open("/console/members/do/create")
    made = admin.send(form, "/do/create", name="Grace <b>Hopper</b>", role="viewer")
    assert made.status == 200
    key = made.response.text.partition("<code>ilk_")[2].partition("</code>")[0]
    record_secret("an API key", f"ilk_{key}")
    page = admin.open(made.link("/console/members/mem_"))
    assert "Grace <b>Hopper</b>" in page.text
    assert key not in page.response.text
    assert person.sign_in(f"ilk_{key}").status == 200
    assert person.open("/console/members").status == 403
    assert "Members" not in person.open("/console").text
    replaced = person.send(person.open("/console/sessions"), "/console/sessions/key")
    assert "which has ended" in replaced.text
    assert person.open("/console").status == 401
    own = replaced.response.text.partition("<code>ilk_")[2].partition("</code>")[0]
    record_secret("an API key", f"ilk_{own}")
    assert person.sign_in(f"ilk_{key}").status == 401
    assert person.sign_in(f"ilk_{own}").status == 200
    replaced = admin.send(admin.open(page.link("/do/rotate-key")), "/do/rotate-key")
    assert person.open("/console").status == 401
    key = replaced.response.text.partition("<code>ilk_")[2].partition("</code>")[0]
    record_secret("an API key", f"ilk_{key}")
    assert person.sign_in(f"ilk_{key}").status == 200
    form = admin.open(page.link("/do/role"))
    assert admin.send(form, "/do/role", role="admin").status == 200
    assert person.open("/console/members").status == 200
    form = admin.open(page.link("/do/remove"))
    assert "revoke these too" in form.text
    assert admin.send(form, "/do/remove").path == "/console/members?done=remove"
    assert person.open("/console").status == 401
