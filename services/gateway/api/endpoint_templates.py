"""Endpoint templates: ready-made endpoints of the manifests."""

from collections.abc import Mapping

from services.gateway.api.endpoint_schemas import EndpointTemplateOut
from shared.manifests.models import EndpointTemplate
from shared.manifests.registry import Provider


def endpoint_templates(providers: Mapping[str, Provider]) -> dict[str, tuple[Provider, EndpointTemplate]]:
    """Return the templates of all providers by template id, each with its provider."""
    return {
        template.id: (provider, template)
        for provider in providers.values()
        if provider.manifest.webhook
        for template in provider.manifest.webhook.templates
    }


def template_out(provider: Provider, template: EndpointTemplate) -> EndpointTemplateOut:
    """Return a template as the API shows it."""
    webhook = provider.manifest.webhook
    required = [name for name, setting in webhook.settings.items() if setting.required] if webhook else []
    return EndpointTemplateOut(
        id=template.id,
        name=template.name,
        about=template.about,
        provider=provider.id,
        provider_name=provider.manifest.name,
        events=list(template.events),
        required_settings=required,
    )
