from django.contrib import admin
from django.urls import path

from smartcomm.site.health import healthz

urlpatterns = [
    path("healthz", healthz),
    path("admin/", admin.site.urls),
]
