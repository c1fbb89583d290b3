"""Bodies that senders post to an incoming webhook, one for each form of each format.

They are made up, with the fields that the senders' documents and sources have.
"""

from typing import Any, Final

ALERT: Final[dict[str, Any]] = {
    "status": "firing",
    "labels": {"alertname": "HighCPU", "instance": "web-1:9100", "severity": "critical"},
    "annotations": {
        "summary": "CPU above 90 %",
        "description": "web-1 has *92 %* since 5 min",
        "runbook_url": "https://runbooks.example/cpu",
    },
    "startsAt": "2026-03-02T08:11:32.000Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "https://prometheus.example/graph?g0.expr=up",
    "fingerprint": "c6eadffa33fcdf37",
}
BODIES: Final[dict[str, dict[str, Any]]] = {
    "alertmanager": {
        "receiver": "chat",
        "status": "firing",
        "alerts": [
            ALERT,
            {
                **ALERT,
                "status": "resolved",
                "endsAt": "2026-03-02T08:20:00Z",
                "labels": {"alertname": "HighCPU", "instance": "web-2:9100"},
            },
        ],
        "groupLabels": {"alertname": "HighCPU"},
        "commonLabels": {"alertname": "HighCPU"},
        "commonAnnotations": {},
        "externalURL": "https://alertmanager.example",
        "version": "4",
        "groupKey": '{}:{alertname="HighCPU"}',
        "truncatedAlerts": 0,
    },
    "grafana": {
        "receiver": "chat",
        "status": "firing",
        "orgId": 1,
        "alerts": [
            {
                **ALERT,
                "values": {"B": 44.2, "C": 1},
                "silenceURL": "https://grafana.example/alerting/silence/new",
                "dashboardURL": "https://grafana.example/d/1",
                "panelURL": "",
                "imageURL": "https://grafana.example/i.png",
            }
        ],
        "groupLabels": {},
        "commonLabels": ALERT["labels"],
        "commonAnnotations": {},
        "externalURL": "https://grafana.example/",
        "version": "1",
        "groupKey": "{}:{}",
        "truncatedAlerts": 0,
        "title": "[FIRING:1] HighCPU (web-1:9100 critical)",
        "state": "alerting",
        "message": "**Firing**\n\nValue: B=44.2, C=1",
    },
    "grafana8": {
        "dashboardId": 1,
        "evalMatches": [{"value": 100, "metric": "High value", "tags": None}],
        "imageUrl": "https://grafana.example/i.png",
        "message": "Someone is testing",
        "orgId": 0,
        "panelId": 1,
        "ruleId": 0,
        "ruleName": "Test notification",
        "ruleUrl": "https://grafana.example/",
        "state": "alerting",
        "tags": {},
        "title": "[Alerting] Test notification",
    },
    "uptime": {
        "heartbeat": {
            "monitorID": 1,
            "status": 0,
            "time": "2026-03-02 08:11:32.123",
            "msg": "connect ECONNREFUSED 127.0.0.1:80",
            "ping": None,
            "important": True,
            "duration": 60,
            "timezone": "Europe/Berlin",
            "timezoneOffset": "+01:00",
            "localDateTime": "2026-03-02 09:11:32",
        },
        "monitor": {"id": 1, "name": "Shop", "url": "https://shop.example", "hostname": None, "type": "http"},
        "msg": "[Shop] [🔴 Down] connect ECONNREFUSED 127.0.0.1:80",
    },
    "uptime_test": {"heartbeat": None, "monitor": None, "msg": "Chat Testing"},
    "datadog": {
        "body": "%%%\nCPU is **high** on web-1\n\n[Monitor](https://app.datadoghq.com/monitors/1)\n%%%",
        "last_updated": "1772439092000",
        "event_type": "query_alert_monitor",
        "title": "[Triggered on {host:web-1}] CPU",
        "date": "1772439092000",
        "org": {"id": "1", "name": "Acme"},
        "id": "123",
        "alert_transition": "Triggered",
        "alert_type": "error",
        "tags": "env:prod, host:web-1",
    },
    "datadog_default": {
        "body": "A plain *message*",
        "last_updated": "1772439092000",
        "event_type": "event",
        "title": "Deploy",
        "date": "1772439092000",
        "org": {"id": "1", "name": "Acme"},
        "id": "123",
    },
    "message_card": {
        "@type": "MessageCard",
        "@context": "http://schema.org/extensions",
        "themeColor": "0076D7",
        "summary": "Larry created a task",
        "title": "Build 7 failed",
        "text": "On branch <b>main</b>",
        "sections": [
            {
                "activityTitle": "Larry Bryant",
                "activitySubtitle": "On Project Tango",
                "activityImage": "https://a.example/i.png",
                "facts": [
                    {"name": "Assigned to", "value": "Unassigned"},
                    {"name": "Status:", "value": "Not <i>started</i>"},
                ],
                "markdown": True,
            }
        ],
        "potentialAction": [
            {
                "@type": "OpenUri",
                "name": "Learn More",
                "targets": [{"os": "default", "uri": "https://a.example/learn"}],
            }
        ],
    },
    "alertmanager_teams": {
        "@context": "http://schema.org/extensions",
        "type": "MessageCard",
        "title": "[FIRING:1] HighCPU",
        "summary": "",
        "text": "# Alerts Firing:\n\nLabels:\n\n  - alertname = HighCPU\n",
        "themeColor": "8C1A1A",
    },
    "alertmanager_teams2": {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": None,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.2",
                    "body": [
                        {
                            "type": "TextBlock",
                            "text": "[FIRING:1] HighCPU",
                            "weight": "Bolder",
                            "size": "Medium",
                            "wrap": True,
                            "style": "heading",
                            "color": "Attention",
                        },
                        {
                            "type": "TextBlock",
                            "text": "# Alerts Firing:\n\nLabels:\n - alertname = HighCPU\n",
                            "wrap": True,
                        },
                    ],
                    "msteams": {"width": "full"},
                },
            }
        ],
    },
    "adaptive": {
        "type": "message",
        "attachments": [
            {
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": None,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "body": [
                        {
                            "type": "TextBlock",
                            "text": "Build 7 failed",
                            "weight": "Bolder",
                            "size": "Medium",
                            "color": "Attention",
                        },
                        {
                            "type": "ColumnSet",
                            "columns": [
                                {
                                    "type": "Column",
                                    "items": [{"type": "Image", "url": "https://a.example/i.png"}],
                                },
                                {
                                    "type": "Column",
                                    "items": [{"type": "TextBlock", "text": "by **Ada**", "wrap": True}],
                                },
                            ],
                        },
                        {"type": "FactSet", "facts": [{"title": "Branch:", "value": "main"}]},
                        {
                            "type": "RichTextBlock",
                            "inlines": ["took ", {"type": "TextRun", "text": "5 s", "weight": "Bolder"}],
                        },
                    ],
                    "actions": [
                        {"type": "Action.OpenUrl", "title": "Open", "url": "https://a.example/7"},
                        {"type": "Action.Submit", "title": "Retry"},
                    ],
                },
            }
        ],
    },
    "google": {
        "text": "*Deployed* <https://a.example|7>",
        "thread": {"threadKey": "t1"},
        "cardsV2": [
            {
                "cardId": "1",
                "card": {
                    "header": {"title": "Build 7", "subtitle": "main", "imageUrl": "https://a.example/i.png"},
                    "sections": [
                        {
                            "header": "Details",
                            "widgets": [
                                {
                                    "textParagraph": {
                                        "text": '<b>Done</b>: see <a href="https://a.example/7">the page</a>.'
                                    }
                                },
                                {
                                    "decoratedText": {
                                        "topLabel": "Branch",
                                        "text": "main",
                                        "bottomLabel": "protected",
                                    }
                                },
                                {
                                    "buttonList": {
                                        "buttons": [
                                            {
                                                "text": "Open",
                                                "onClick": {"openLink": {"url": "https://a.example/7"}},
                                            }
                                        ]
                                    }
                                },
                                {
                                    "columns": {
                                        "columnItems": [
                                            {"widgets": [{"textParagraph": {"text": "left"}}]},
                                            {"widgets": [{"textParagraph": {"text": "right"}}]},
                                        ]
                                    }
                                },
                            ],
                        }
                    ],
                },
            }
        ],
    },
    "google1": {
        "cards": [
            {
                "header": {"title": "Build 7"},
                "sections": [
                    {
                        "widgets": [
                            {"keyValue": {"topLabel": "Branch", "content": "main"}},
                            {
                                "buttons": [
                                    {
                                        "textButton": {
                                            "text": "OPEN",
                                            "onClick": {"openLink": {"url": "https://a.example/7"}},
                                        }
                                    }
                                ]
                            },
                        ]
                    }
                ],
            }
        ]
    },
    "mattermost": {
        "channel": "town-square",
        "username": "ci",
        "icon_url": "https://a.example/i.png",
        "text": "#### Build 7\n| a | b |\n|:--|:--|\n| 1 | **2** |",
        "attachments": [
            {
                "fallback": "test",
                "color": "#FF8000",
                "pretext": "see",
                "text": "**bold** _it_",
                "author_name": "Ada",
                "title": "Title",
                "title_link": "https://a.example",
                "fields": [{"short": True, "title": "Area", "value": "ops"}],
            }
        ],
        "props": {"card": "x"},
    },
    "rocket": {
        "alias": "Gruggy",
        "avatar": "https://a.example/a.png",
        "text": "I'm outta here!",
        "attachments": [
            {
                "title": "Rocket.Chat",
                "title_link": "https://rocket.example",
                "text": "The best",
                "image_url": "https://a.example/i.png",
                "color": "#764FA5",
                "ts": "2026",
            }
        ],
    },
    "rich_text": {
        "text": "fallback",
        "blocks": [
            {
                "type": "rich_text",
                "elements": [
                    {
                        "type": "rich_text_section",
                        "elements": [
                            {"type": "text", "text": "Hello "},
                            {"type": "user", "user_id": "U024BE7LH"},
                            {"type": "text", "text": ", "},
                            {"type": "text", "text": "bold* ", "style": {"bold": True}},
                            {"type": "text", "text": "x = 1", "style": {"code": True}},
                            {"type": "emoji", "name": "tada", "unicode": "1f389"},
                            {"type": "emoji", "name": "party"},
                            {"type": "link", "url": "https://a.example/x", "text": "page"},
                            {"type": "channel", "channel_id": "C1"},
                            {"type": "broadcast", "range": "here"},
                        ],
                    },
                    {
                        "type": "rich_text_list",
                        "style": "bullet",
                        "indent": 0,
                        "elements": [
                            {"type": "rich_text_section", "elements": [{"type": "text", "text": "one"}]},
                            {"type": "rich_text_section", "elements": [{"type": "text", "text": "two"}]},
                        ],
                    },
                    {
                        "type": "rich_text_list",
                        "style": "ordered",
                        "indent": 1,
                        "elements": [
                            {"type": "rich_text_section", "elements": [{"type": "text", "text": "inner"}]}
                        ],
                    },
                    {"type": "rich_text_quote", "elements": [{"type": "text", "text": "said\nhe"}]},
                    {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": "a = *b*\n"}]},
                ],
            }
        ],
    },
    "discord": {
        "content": "<@1234567890> and <@&1234567890> in <#1234567890> <:tada:1234567890> at <t:1772439092:F>"
    },
    "sentry_issue": {
        "action": "created",
        "installation": {"uuid": "a"},
        "data": {
            "issue": {
                "title": "ValueError: bad",
                "culprit": "app.main in run",
                "shortId": "APP-1",
                "level": "error",
                "status": "unresolved",
                "web_url": "https://sentry.example/issues/1/",
                "project": {"name": "App", "slug": "app"},
                "count": "3",
                "userCount": 2,
            }
        },
        "actor": {"type": "application", "name": "Sentry"},
    },
    "sentry_alert": {
        "action": "triggered",
        "installation": {"uuid": "a"},
        "data": {
            "event": {
                "title": "ValueError: bad",
                "culprit": "app.main",
                "level": "error",
                "web_url": "https://sentry.example/issues/1/events/2/",
                "issue_url": "https://sentry.example/api/0/issues/1/",
                "tags": [["environment", "prod"], ["release", "1.2"]],
            },
            "triggered_rule": "All errors",
        },
        "actor": {},
    },
    "sentry_metric": {
        "action": "critical",
        "data": {
            "description_text": "1000 events in the last 10 minutes\\nFilter: level:error",
            "description_title": "Critical: Too many errors",
            "metric_alert": {
                "alert_rule": {"name": "Too many errors", "environment": None},
                "projects": ["app"],
            },
            "web_url": "https://sentry.example/alerts/1/",
        },
    },
    "sentry_plugin": {
        "id": "1",
        "project": "python",
        "project_name": "python",
        "project_slug": "python",
        "logger": None,
        "level": "error",
        "culprit": "raven in main",
        "message": "An example",
        "url": "https://sentry.example/issues/1/",
        "triggering_rules": ["Every error"],
        "event": {"title": "Example", "environment": "prod", "tags": []},
    },
}
