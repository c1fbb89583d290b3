"""Albums of Telegram: several files go there as one, and each file of one that comes is a message."""

from tests.sync.places import ADA, GRACE
from tests.sync.three_legs import World

_NAMED = f"{ADA}\n\n"
PICTURES = [b"\x89PNG\r\n\x1a\n one", b"\x89PNG\r\n\x1a\n two", b"\x89PNG\r\n\x1a\n three"]


def test_each_file_of_an_album_is_a_message_that_changes_find(world: World) -> None:
    legs = world.mapped()
    album = legs.telegram.api.send_album(legs.telegram.chat, world.people[ADA], PICTURES, "of us")

    def texts() -> list[list[str]]:
        """In the chat, and in Slack without the name that stands before the text of files there."""
        in_slack = [text.removeprefix(_NAMED).removeprefix(ADA) for text in legs.slack.texts()]
        return [legs.chat.texts(), in_slack]

    legs.until(lambda: texts() == [["of us", "", ""]] * 2)
    assert [list(one.files) for one in legs.chat.shown()] == [["photo.jpg"]] * 3
    assert [list(one.files.values()) for one in legs.slack.shown()] == [[picture] for picture in PICTURES]
    first, second, third = (str(message.id) for message in album)
    legs.telegram.edit(first, "of us all")
    legs.telegram.edit(second, "the second")
    legs.telegram.react(third, "🎉", by=GRACE)
    legs.telegram.reply(third, "where is it?", by=GRACE)
    legs.until(lambda: texts() == [["of us all", "the second", "", "where is it?"]] * 2)
    for place in (legs.chat, legs.slack):
        legs.until(lambda shown=place: shown.shown()[2].reactions)  # type: ignore[misc]
        assert place.find("where is it?").thread == place.shown()[2].id


def test_several_files_of_a_message_are_one_album(world: World) -> None:
    legs = world.mapped()
    ada = world.team.person(ADA)
    kinds = {"a.png": "image/png", "b.mp4": "video/mp4", "c.png": "image/png"}
    files = [ada.upload(name, name.encode() * 9, kind) for name, kind in kinds.items()]
    written = legs.slack.write("three files", files=files)
    legs.until(lambda: len(legs.telegram.shown()) == 3)
    sent = legs.telegram.chat.visible()
    assert len({message.album for message in sent}) == 1
    assert [message.file.kind for message in sent if message.file] == ["photo", "video", "photo"]
    assert legs.telegram.texts() == ["three files", "", ""]
    legs.slack.edit(written, "the files")
    legs.until(lambda: legs.telegram.texts() == ["the files", "", ""])
    legs.telegram.react(legs.telegram.shown()[2].id, "🎉", by=GRACE)
    legs.until(lambda: legs.slack.find("the files").reactions)
    legs.slack.delete(written)
    legs.until(lambda: legs.telegram.shown() == legs.chat.shown() == [])
