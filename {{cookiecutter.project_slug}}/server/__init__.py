"""How the service is served; README.md in this folder says what each module is for."""
