// chatloop-router: parse, wire, run.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "command_line.hpp"
#include "router_node.hpp"

int main(int argc, char** argv) {
    using namespace chatloop;
    using namespace chatloop::actors;
    constexpr char kActor[] = "chatloop-router";
    block_signals();  // one that comes during the set-up drains as soon as the loop runs
    CLI::App app("ChatLoop's router: requests in, tokens out", kActor);
    CommandLine command_line(app, kRouterRole);
    std::string endpoints_file;
    app.add_option("--endpoints-file", endpoints_file,
                   "write the bound endpoints there as JSON");
    const Settings settings = command_line.parse_or_exit(kActor, argc, argv);
    RouterOptions options = value_or_die(kActor, router_options(settings));
    options.endpoints_file = endpoints_file;
    const std::vector<int> io_cpus = value_or_die(kActor, place_process(settings));
    die_with_parent();
    report_lost_pages(kActor, kConfig);
    const RouterModel model = open_router_model(kActor, options);
    if (command_line.check()) {
        print_warnings(kActor, setting_warnings(settings));
        check_router(kActor, options);
        std::printf("%s: all is well: %s for %s, front at %s\n", kActor, options.name.c_str(),
                    model.spec.model_name.c_str(), options.front.c_str());
        return kDrained;
    }
    start_log(kActor, settings.text("observability.log_level"),
              log_format(settings.text("observability.log_format")));
    for (const std::string& warning : setting_warnings(settings)) log_line('w', warning);
    Host host(io_cpus);
    RouterNode router(host, kActor, options, model);
    host.set_reload([&command_line] { reload_log_level(command_line); });
    router.on_log_level();
    router.log_endpoints();
    host.run();
    log_line('i', "drained");
    return kDrained;
}
