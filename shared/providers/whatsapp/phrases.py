"""WhatsApp's placeholders for what a text cannot have, in the languages of its users."""

# ruff: noqa: RUF001 -- letters of other alphabets are meant

import re
from typing import Final

_EDITED: Final = re.compile(
    r"[ \u200e\u200f]*<(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje"
    r"|Este mensaje fue editado|Ce message a été modifié|Questo messaggio è stato modificato|Mensagem editada"
    r"|Esta mensagem foi editada|Dit bericht is bewerkt|Данное сообщение изменено|Это сообщение изменено"
    r"|Сообщение изменено|Bu mesaj düzenlendi|Ta wiadomość została edytowana|Pesan ini diedit|Pesan diedit"
    r"|Det här meddelandet redigerades|Denne meddelelse blev redigeret|Denne meldingen ble redigert"
    r"|Tätä viestiä muokattiin|Tato zpráva byla upravena|Acest mesaj a fost editat|ההודעה נערכה"
    r"|تم تعديل هذه الرسالة|यह मैसेज एडिट किया गया|このメッセージは編集されました|此消息已编辑|此訊息已編輯"
    r"|이 메시지는 수정되었습니다)\.?>\s*\Z"
)
_OMITTED_MEDIA: Final = re.compile(
    r"<(?:Media omitted|Medien (?:ausgeschlossen|weggelassen)|(?:Archivo|Multimedia) omitido"
    r"|Médias? omis|Fichier omis|Mídia (?:oculta|omitida)|Arquivo de mídia oculto|Ficheiro não revelado"
    r"|Media omess[io]|Media weggelaten|Без медиафайлов|Файл опущен|Мультимедиа не включены|Медиа пропущены"
    r"|Medya (?:dahil edilmedi|atlanmış)|pominięto multimedia|Media tidak disertakan|Media utelämnat"
    r"|Media udeladt|Mediefil er utelatt|Mediat jätettiin pois|Média vynechán[aé]|Hiányzó médiafájl"
    r"|Fișiere media omise|Τα πολυμέσα παραλείφθηκαν|המדיה לא נכללה|מדיה הושמטה|تم (?:استبعاد|حذف) الوسائط"
    r"|मीडिया के बिना|मीडिया छोड़ा गया|メディアは含まれていません|メディアなし|省略多媒体文件|省略多媒體檔"
    r"|媒體已略去|미디어 파일을 제외한 내용|미디어를 포함하지 않음|File phương tiện bị bỏ qua|ไม่รวมสื่อ)>"
)
_OMITTED_KIND: Final = re.compile(
    r"\u200e?.{1,40} (?:omitted|weggelassen|omitid[oa]|ocultad[oa]|omise?|absente?|omess[oa]|weggelaten"
    r"|пропущено?|опущено?|dahil edilmedi|pominięt[yao]|tidak disertakan|utelämnad(?:es)?|udeladt|utelatt)"
    r"|\u200e?(?:忽略|省略)?.{1,12}(?:が含まれていません|は含まれていません|생략됨?)|\u200e?(?:忽略|略去|已忽略).{1,12}",
    re.IGNORECASE,
)
_DELETED: Final = re.compile(
    r"[\u200e\u200f]*(?:This message was deleted(?: by admin [^\n]{1,100})?|You deleted this message"
    r"|(?:Diese Nachricht wurde|Du hast diese Nachricht) gelöscht|(?:Se eliminó|Eliminaste) este mensaje"
    r"|Ce message a été supprimé|Vous avez supprimé ce message|(?:Mensagem|Essa mensagem foi) apagada"
    r"|(?:Você apagou|Apagou) esta? mensagem|Questo messaggio è stato eliminato"
    r"|Hai eliminato questo messaggio|(?:Dit bericht is|U heeft dit bericht|Je hebt dit bericht) verwijderd"
    r"|(?:Данное|Это) сообщение удалено|Вы удалили (?:данное|это) сообщение|Bu mesaj silindi"
    r"|Bu mesajı sildiniz|Ta wiadomość została usunięta|Usunięto tę wiadomość|Pesan ini (?:telah )?dihapus"
    r"|Anda (?:telah )?menghapus pesan ini|تم حذف هذه الرسالة|הודעה זו נמחקה|מחקת הודעה זו"
    r"|यह मैसेज (?:मिटाया|डिलीट किया) गया|このメッセージは削除されました|此消息已被?删除|此訊息已(?:被)?刪除"
    r"|삭제된 메시지입니다)\.?\s*"
)
_ATTACHED: Final = re.compile(
    r"<(?:attached|Anhang|adjunto|pièce jointe ?|anexado|anexo|allegato|bijgevoegd|bijlage"
    r"|вложено|прикреплено|ekli|eklendi|załącznik|załączono|terlampir|bifogad|vedhæftet|vedlagt|liite"
    r"|připojeno|priložené|csatolva|atașat|συνημμένο|מצורף|مرفق|संलग्न|添付ファイル|添付|附件|附件檔案|첨부)"
    r"[:：] ?([^<>\n]{1,255})>"
)
_FILE_ATTACHED: Final = re.compile(
    r"[\u200e\u200f]*([^\n()<>]{1,200}\.[A-Za-z0-9]{1,8}) \((?:file attached|Datei angehängt|archivo adjunto"
    r"|fichier joint|arquivo anexado|ficheiro anexado|file allegato|bestand bijgevoegd|файл добавлен"
    r"|файл прикреплен|dosya ekli|dosya eklendi|plik dołączony|załączono plik|file terlampir|bifogad fil"
    r"|fil vedhæftet|fil vedlagt|tiedosto liitetty|soubor byl přiložen|súbor priložený|fájl csatolva"
    r"|fișier atașat|συνημμένο αρχείο|קובץ מצורף|الملف مرفق|फ़ाइल संलग्न है|添付ファイル|文件附件|檔案附件"
    r"|첨부 파일)\)[\u200e\u200f]*(?:\n|\Z)"
)
_MEDIA: Final = "media"
_MARK_CHARACTERS: Final = 100
"""The mark of an edited message is among so many last characters: a search of all blanks would be slow."""


def without_edited_mark(text: str) -> tuple[str, bool]:
    """Return a text without the mark of an edited message, and whether it had one."""
    end = text[-_MARK_CHARACTERS:]
    found = _EDITED.search(end)
    return (text[: len(text) - len(end) + found.start()], True) if found else (text, False)


def is_deleted(text: str) -> bool:
    """Return whether a text stands in place of a deleted message."""
    return _DELETED.fullmatch(text) is not None


def omitted_media(text: str) -> str | None:
    """Return what a text stands for if a file was left out of the export (`image`); None for another text."""
    if _OMITTED_MEDIA.fullmatch(text.strip("\u200e\u200f ")):
        return _MEDIA
    if "\n" not in text and text.startswith("\u200e") and _OMITTED_KIND.fullmatch(text):
        return text.strip("\u200e\u200f ").partition(" ")[0][:40] or _MEDIA
    return None


def attached_file(text: str) -> tuple[str | None, str]:
    """Return the name of the file that a text attaches, None without one, and the text without it."""
    if found := _FILE_ATTACHED.match(text):
        return found[1].strip(), text[found.end() :]
    if found := _ATTACHED.search(text):
        return found[1].strip(), (text[: found.start()] + text[found.end() :]).strip("\n \u200e\u200f")
    return None, text
